"""The methods side by side, for equal images seen.

python -m moco_jax study configs/study/methods.py:demo --workdir=runs/methods
with :demo (14 runs of 1 to 2 minutes on 2 CPU cores), :cifar10 (7 runs of 200 epochs), :imagenet
(ResNet-50, each at its authors' length: 200 to 1000 epochs).
"""

from configs import demo
from moco_jax.config import choose
from moco_jax.studies import SIZES, Member, Study

# On ImageNet the published figures are those of each config's head.
CONFIGS = {
    "moco_v2": ("demo.py:short", "v2_r18_cifar10.py:200", "v2_r50.py:800", 71.1),
    "moco_v3": ("v3_r50.py:demo", "v3_r50.py:cifar10", "v3_r50.py:1000", 74.6),
    "end_to_end": ("end_to_end.py:demo", "end_to_end.py:cifar10", "end_to_end.py:r50", None),
    "memory_bank": ("memory_bank.py:demo", "memory_bank.py:cifar10", "memory_bank.py:r50", 58.0),
    "simclr": ("simclr.py:demo", "simclr.py:cifar10", "simclr.py:r50", 70.4),
    "byol": ("byol.py:demo", "byol.py:cifar10", "byol.py:r50", 74.3),
    "swav": ("swav.py:demo", "swav.py:cifar10", "swav.py:r50", 75.3),
}


def get_study(size: str = "demo") -> Study:
    which = SIZES.index(choose("size", size, SIZES))
    members = [
        Member(name, f"configs/{own[which]}", own[-1] if size == "imagenet" else None)
        for name, own in CONFIGS.items()
    ]
    if size == "demo":
        return Study(members, (0, 1), demo.STUDY)
    return Study(members, (0,))
