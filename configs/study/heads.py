"""MoCo v3's ViT: what its heads have, and what they stand on (arXiv:2104.02057, ablations).

python -m moco_jax study configs/study/heads.py:demo --workdir=runs/heads
with :demo (10 runs of about a minute on 2 CPU cores), :cifar10 (10 of 200 epochs), :imagenet (5 of
300 epochs, ViT-B).
"""

from configs import v3_vit
from moco_jax.config import choose
from moco_jax.studies import SIZES, Study, varied

# BatchNorm in the heads, the predictor, the class token against pooled patches.
PUBLISHED = {
    "": 76.5,
    "head_bn=none": 74.4,
    "predictor=none": 75.5,
    "pool=gap": 76.3,
    "pool=gap_ln": 69.7,
}


def get_study(size: str = "demo") -> Study:
    choose("size", size, SIZES)
    if size == "imagenet":
        # The paper has the heads without BatchNorm at a batch of 2048.
        published = {
            f"{text},batch=2048" if "head_bn" in text else text: figure
            for text, figure in PUBLISHED.items()
        }
        return Study(varied("configs/v3_vit.py:b16", published), (0,))
    options = v3_vit.STUDY if size == "demo" else {}
    return Study(varied(f"configs/v3_vit.py:{size}", list(PUBLISHED)), (0, 1), options)
