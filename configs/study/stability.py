"""MoCo v3's ViT: batch, rate, patch projection trained or frozen (arXiv:2104.02057, section 4).

python -m moco_jax study configs/study/stability.py:demo --workdir=runs/stability
with :demo (12 runs of about a minute on 2 CPU cores), :cifar10 (12 of 200 epochs), :imagenet (9 of
100 epochs, ViT-B, as in the paper).
The table counts spikes of the first layer's gradient and dips of the kNN curve. kNN is measured
often, so that a dip is seen.
"""

from configs import v3_vit
from moco_jax.config import choose
from moco_jax.studies import SIZES, Study, varied

FREEZE = ("freeze_patch=False", "freeze_patch=True")
# Base rates of the small ones, v3_vit.py's own and one far above it; and a batch far above its own.
SMALL = {"demo": ((2e-3, 5e-2), 512), "cifar10": ((5e-4, 4e-3), 4096)}
# At a rate of 1e-4 with the patch projection trained, by batch; at 4096, by rate and patch.
PUBLISHED = {
    "batch=1024,lr=1e-4,freeze_patch=False": 71.5,
    "batch=2048,lr=1e-4,freeze_patch=False": 72.6,
    "batch=6144,lr=1e-4,freeze_patch=False": 69.7,
    "lr=0.5e-4,freeze_patch=False": 70.4,
    "lr=1e-4,freeze_patch=False": 72.2,
    "lr=1.5e-4,freeze_patch=False": 71.7,
    "lr=0.5e-4,freeze_patch=True": 70.8,
    "lr=1e-4,freeze_patch=True": 72.8,
    "lr=1.5e-4,freeze_patch=True": 73.4,
}


def get_study(size: str = "demo") -> Study:
    choose("size", size, SIZES)
    if size == "imagenet":
        options = {"epochs": 100.0, "knn.every_epochs": 1.0}
        return Study(varied("configs/v3_vit.py:b16", PUBLISHED), (0,), options)
    rates, batch = SMALL[size]
    members = [f"lr={lr:g},{freeze}" for lr in rates for freeze in FREEZE]
    members += [f"batch={batch},{freeze}" for freeze in FREEZE]
    options = {"knn.every_epochs": 1.0}
    if size == "demo":
        options = v3_vit.STUDY | {"knn.every_epochs": 0.5}
    return Study(varied(f"configs/v3_vit.py:{size}", members), (0, 1), options)
