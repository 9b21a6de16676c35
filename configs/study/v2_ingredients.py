"""What of MoCo v2 helps: MLP head, augmentation, temperature, cosine (arXiv:2003.04297, table 1).

python -m moco_jax study configs/study/v2_ingredients.py:demo --workdir=runs/v2_ingredients
with :demo (12 runs of about a minute on 2 CPU cores), :cifar10 (6 runs of 200 epochs), :imagenet (6
of 53 h on 8 V100).
"""

from configs import demo
from moco_jax.config import choose
from moco_jax.studies import SIZES, Member, Study

CONFIGS = {
    "demo": "configs/demo.py:short",
    "cifar10": "configs/v2_r18_cifar10.py:200",
    "imagenet": "configs/v2_r50.py:200",
}
# Arguments, and the published figure. Where tau is not named it is the config's: 0.2 on ImageNet.
# The paper does not say tau of "aug", stronger augmentation alone: v1's is taken.
MEMBERS = {
    "v1": ("mlp=off,aug=v1,tau=0.07,schedule=step", 60.6),
    "mlp,tau=0.07": ("mlp=on,aug=v1,tau=0.07,schedule=step", 62.9),
    "mlp": ("mlp=on,aug=v1,schedule=step", 66.2),
    "aug": ("mlp=off,aug=v2,tau=0.07,schedule=step", 63.4),
    "mlp,aug": ("mlp=on,aug=v2,schedule=step", 67.3),
    "mlp,aug,cosine": ("mlp=on,aug=v2,schedule=cosine", 67.5),
}


def get_study(size: str = "demo") -> Study:
    config = CONFIGS[choose("size", size, SIZES)]
    published = {name: top1 if size == "imagenet" else None for name, (_, top1) in MEMBERS.items()}
    members = [
        Member(name, f"{config},{text}", published[name]) for name, (text, _) in MEMBERS.items()
    ]
    if size == "demo":
        return Study(members, (0, 1), demo.STUDY)
    return Study(members, (0,))
