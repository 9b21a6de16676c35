"""How many negatives: MoCo's queue, a memory bank, the batch (arXiv:1911.05722, figure 3).

python -m moco_jax study configs/study/queue_size.py:demo --workdir=runs/queue_size
with :demo (12 runs of about a minute on 2 CPU cores), :cifar10 (9 runs of 200 epochs), :imagenet
(15 of 200 epochs, the values of the figure; accuracies are those that the paper has as text).
K is the queue, the rows that are drawn from the bank, or the batch of end-to-end training, with
which the rate grows.
"""

from configs import demo
from moco_jax.config import choose
from moco_jax.studies import SIZES, Member, Study

PUBLISHED = {("moco", 4096): 59.0, ("moco", 65536): 60.6, ("memory_bank", 65536): 58.0}
# Of each size: config of a method, and its values of K.
CONFIGS = {
    "demo": {
        "moco": ("configs/demo.py:short,K={}", (128, 2048)),
        "memory_bank": ("configs/memory_bank.py:demo,K={}", (128, 2048)),
        "end_to_end": ("configs/end_to_end.py:demo,batch={}", (128, 512)),
    },
    "cifar10": {
        "moco": ("configs/v2_r18_cifar10.py:200,K={}", (512, 4096, 16384)),
        "memory_bank": ("configs/memory_bank.py:cifar10,K={}", (512, 4096, 16384)),
        "end_to_end": ("configs/end_to_end.py:cifar10,batch={}", (256, 512, 1024)),
    },
    "imagenet": {
        "moco": ("configs/v1_r50.py:200,K={}", (256, 512, 1024, 4096, 16384, 65536)),
        "memory_bank": ("configs/memory_bank.py:r50,K={}", (256, 512, 1024, 4096, 16384, 65536)),
        "end_to_end": ("configs/end_to_end.py:r50,batch={}", (256, 512, 1024)),
    },
}


def get_study(size: str = "demo") -> Study:
    choose("size", size, SIZES)
    published = PUBLISHED if size == "imagenet" else {}
    members = [
        Member(f"{method},K={k}", config.format(k), published.get((method, k)))
        for method, (config, ks) in CONFIGS[size].items()
        for k in ks
    ]
    if size == "demo":
        return Study(members, (0, 1), demo.STUDY)
    return Study(members, (0,))
