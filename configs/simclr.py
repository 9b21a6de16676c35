"""SimCLR (arXiv:2002.05709): the batch's other features are the negatives.

python -m moco_jax.main --config=configs/simclr.py:r50 --workdir=DIR
with :r50, :s16, :b16, :cifar10, :demo
Published linear top-1: ResNet-50, 800 epochs 70.4; ViT-S/16 69.0, ViT-B/16 73.9 at 300 epochs
(2104.02057). Batch 4096: 32 to 128 TPU v3 cores or 64 V100. The demonstration is as
long as configs/demo.py.
"""

from configs import demo, v2_r18_cifar10, v3_vit
from moco_jax import config
from moco_jax.config import ConfigDict

VARIANTS = ("r50", "s16", "b16", "cifar10", "demo")


def get_config(variant: str = "r50") -> ConfigDict:
    variant = config.choose("variant", variant, VARIANTS)
    if variant == "cifar10":
        c = v2_r18_cifar10.get_config("200")
        # Temperature: 2002.05709, appendix B.9. Heads: as wide as the backbone's features. All else
        # is the demonstration's of MoCo on CIFAR-10.
        c.method.update(name="simclr", temperature=0.5, bn_group_size=0)
        c.method.projector = config.mlp(hidden=0, bias=False, bn=True, last_bn=True)
        return c
    if variant == "demo":
        c = demo.get_config()
        c.epochs = 54.0  # both views have a gradient: 3/2 of the time of MoCo's demonstration
        c.method.update(name="simclr", temperature=0.2, bn_group_size=0)  # 0.2: v2's
        c.method.projector = config.mlp(hidden=0, bias=False, bn=True, last_bn=True)
        return c
    return _r50() if variant == "r50" else _vit(variant)


def _r50() -> ConfigDict:
    """Section 4.2 and appendix A of the paper, and its public code."""
    c = config.default()
    c.epochs = 800.0
    c.data.batch_size = 4096
    for view in (c.data.view1, c.data.view2):
        view.crop_area = (0.08, 1.0)
        view.order = ("flip", "jitter", "grayscale", "blur")
        view.jitter = (0.8, 0.8, 0.8, 0.2)
    c.method.update(name="simclr", temperature=0.1, bn_group_size=0)
    c.method.projector = config.mlp(bias=False, bn=True, last_bn=True)  # 2048 -> 2048 -> 128
    c.optim.update(
        name="lars",
        base_lr=0.3,
        warmup_epochs=10.0,
        weight_decay=1e-6,
        exclude_1d=True,
    )
    return c


def _vit(size: str) -> ConfigDict:
    """MoCo v3's ViT, with what the PyTorch code that gives 73.9 for b16 has otherwise.

    That is github.com/ronghanghu/moco_v3_tpu, "hyperparams following" 2104.02057.
    """
    c = v3_vit.get_config(size)
    c.data.view1, c.data.view2 = (config.view(crop_area=(0.08, 1.0)) for _ in range(2))
    for view in (c.data.view1, c.data.view2):
        view.order = ("flip", "jitter", "grayscale", "blur")
    c.method.update(name="simclr", temperature=0.1)
    c.method.predictor.layers = 0
    c.optim.base_lr = 2e-4  # 3.2e-3 at 4096
    return c
