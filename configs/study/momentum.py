"""The momentum of the key encoder: none fails with a queue (arXiv:1911.05722, section 4.1).

python -m moco_jax study configs/study/momentum.py:demo --workdir=runs/momentum
with :demo (8 runs of about a minute on 2 CPU cores), :cifar10 (8 of the authors' 200 epochs),
:imagenet (the paper's values at K = 4096; 5 runs of 53 h on 8 V100).
"""

from configs import demo
from moco_jax.config import choose
from moco_jax.studies import SIZES, Study, varied

# The paper's table of section 4.1: linear top-1; without momentum the loss oscillates.
PUBLISHED = {"m=0": None, "m=0.9": 55.2, "m=0.99": 57.8, "m=0.999": 59.0, "m=0.9999": 58.9}
FEWER = [m for m in PUBLISHED if m != "m=0.9999"]  # an average longer than these runs


def get_study(size: str = "demo") -> Study:
    choose("size", size, SIZES)
    if size == "demo":
        return Study(varied("configs/demo.py:short", FEWER), (0, 1), demo.STUDY)
    if size == "cifar10":
        return Study(varied("configs/v2_r18_cifar10.py:200", FEWER), (0, 1))
    return Study(varied("configs/v1_r50.py:200,K=4096", PUBLISHED), (0,))
