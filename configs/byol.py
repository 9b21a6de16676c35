"""BYOL (arXiv:2006.07733): predictions regress a momentum encoder's projections, without negatives.

python -m moco_jax.main --config=configs/byol.py:r50 --workdir=DIR
with :r50, :s16, :b16, :cifar10, :demo
Published linear top-1: ResNet-50, 1000 epochs 74.3; ViT-S/16 71.0, ViT-B/16 73.9 at 300 epochs
(2104.02057). Batch 4096: 512 TPU v3 cores, 8 hours. The demonstration is as long as
configs/demo.py.
"""

from configs import demo, v2_r18_cifar10, v3_r50, v3_vit
from moco_jax import config
from moco_jax.config import ConfigDict

VARIANTS = ("r50", "s16", "b16", "cifar10", "demo")


def get_config(variant: str = "r50") -> ConfigDict:
    variant = config.choose("variant", variant, VARIANTS)
    if variant == "r50":
        return _r50()
    if variant in ("s16", "b16"):
        # The paper of v3 swept rate and decay for each method (section 6.1); what it chose for BYOL
        # is not known here, so v3's own stand in.
        c = v3_vit.get_config(variant)
        c.method.name = "byol"
        return c
    if variant == "cifar10":
        c = v2_r18_cifar10.get_config("200")
    else:
        c = demo.get_config()
        c.epochs = 40.0  # four passes, two of them with a gradient: twice the time of MoCo's
    # The average as short as MoCo's in these short runs; heads in proportion to the backbone.
    c.method.update(name="byol", ema=0.99, ema_schedule="cosine", bn_group_size=0)
    c.method.projector = config.mlp(hidden=512, out=128, bias=False, bn=True)
    c.method.predictor = config.mlp(hidden=512, out=128, bias=False, bn=True)
    return c


def _r50() -> ConfigDict:
    """Section 3.3 and appendix B of the paper; the views are in v3's configuration."""
    c = v3_r50.get_config("1000")  # LARS, batch 4096, warmup 10, EMA 0.996 cosine, decay 1.5e-6
    for view in (c.data.view1, c.data.view2):
        view.crop_area = (0.08, 1.0)
    c.method.name = "byol"
    c.method.projector.last_bn = False
    c.optim.base_lr = 0.2
    c.model.resnet.zero_init_residual = False
    return c
