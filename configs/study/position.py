"""MoCo v3's ViT with other position embeddings (arXiv:2104.02057, ablations).

python -m moco_jax study configs/study/position.py:demo --workdir=runs/position
with :demo (6 runs of about a minute on 2 CPU cores), :cifar10 (6 of 200 epochs), :imagenet (3 of
300 epochs, ViT-B).
"""

from configs import v3_vit
from moco_jax.config import choose
from moco_jax.studies import SIZES, Study, varied

PUBLISHED = {"pos=sincos": 76.5, "pos=learned": 76.1, "pos=none": 74.9}


def get_study(size: str = "demo") -> Study:
    choose("size", size, SIZES)
    if size == "imagenet":
        return Study(varied("configs/v3_vit.py:b16", PUBLISHED), (0,))
    options = v3_vit.STUDY if size == "demo" else {}
    return Study(varied(f"configs/v3_vit.py:{size}", list(PUBLISHED)), (0, 1), options)
