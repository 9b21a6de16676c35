"""MoCo v3, ResNet-50 on ImageNet (arXiv:2104.02057, appendix and public code).

python -m moco_jax.main --config=configs/v3_r50.py:100 --workdir=DIR
with :100, :300, :1000, and :cifar10, :demo for small images.
Published: batch 4096 on 16 V100 (100 epochs) to 32 V100; linear top-1 68.9 / 72.8 / 74.6.
"""

from configs import demo, v2_r18_cifar10
from moco_jax import config
from moco_jax.config import ConfigDict


def get_config(epochs: str = "100") -> ConfigDict:
    epochs = config.choose("epochs", epochs, ("100", "300", "1000", "cifar10", "demo"))
    if epochs in ("cifar10", "demo"):
        return _small(epochs)
    c = config.default()
    c.epochs = float(epochs)
    c.data.batch_size = 4096
    v3_views(c)
    c.model.resnet.zero_init_residual = True
    c.method.update(
        name="moco_v3",
        temperature=1.0,
        ema=0.996 if epochs == "1000" else 0.99,
        ema_schedule="cosine",
        bn_group_size=0,
        projector=config.mlp(layers=2, hidden=4096, out=256, bias=False, bn=True, last_bn=True),
        predictor=config.mlp(layers=2, hidden=4096, out=256, bias=False, bn=True),
    )
    c.optim.update(
        name="lars",
        base_lr=0.6 if epochs == "100" else 0.3,
        warmup_epochs=10.0,
        weight_decay=1.5e-6 if epochs == "1000" else 1e-6,
        exclude_1d=True,
    )
    return c


def _small(variant: str) -> ConfigDict:
    """MoCo's recipes for small images; heads in proportion to the backbone."""
    if variant == "cifar10":
        c = v2_r18_cifar10.get_config("200")
    else:
        c = demo.get_config()
        c.epochs = 40.0  # four passes, two of them with a gradient: twice the time of MoCo v2's
    c.method.update(name="moco_v3", ema_schedule="cosine", bn_group_size=0, symmetric=False)
    c.method.projector = config.mlp(hidden=512, out=128, bias=False, bn=True, last_bn=True)
    c.method.predictor = config.mlp(hidden=512, out=128, bias=False, bn=True)
    c.optim.base_lr /= 4 * c.method.temperature  # both directions, each times 2 tau, as v2's one
    return c


def v3_views(c: ConfigDict) -> None:
    """The asymmetric views of BYOL that v3 takes."""
    for view in (c.data.view1, c.data.view2):
        view.jitter = (0.4, 0.4, 0.2, 0.1)
    c.data.view1.blur_p = 1.0
    c.data.view2.blur_p = 0.1
    c.data.view2.order = ("jitter", "grayscale", "blur", "solarize", "flip")
