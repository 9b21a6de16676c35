"""MoCo v1, ResNet-50 on ImageNet (arXiv:1911.05722).

python -m moco_jax.main --config=configs/v1_r50.py --workdir=DIR
Published: 53 h on 8 V100, batch 256, 200 epochs; linear top-1 60.6 to 60.8.
The paper's ablations, with its published values: configs/v1_r50.py:K=16384 (figure 3),
:m=0.99,K=4096 (m = 0 fails, 0.9 55.2, 0.99 57.8, 0.999 59.0, 0.9999 58.9), :shuffle_bn=off
(section 3.3); and tau, batch, lr.
"""

from moco_jax import config
from moco_jax.ablations import BATCH, RATE, ablated, number, one_of
from moco_jax.config import ConfigDict

ABLATIONS = {
    "K": number("method.queue_size", int),
    "m": number("method.ema"),
    "tau": number("method.temperature"),
    "shuffle_bn": one_of(
        "shuffle_bn", {"on": {"method.shuffle_bn": True}, "off": {"method.shuffle_bn": False}}
    ),
    "batch": BATCH,
    "lr": RATE,
}


def get_config(argument: str = "200") -> ConfigDict:
    return ablated(argument, _recipe, ("200",), ABLATIONS)


def _recipe(epochs: str) -> ConfigDict:
    c = config.default()
    c.epochs = float(epochs)
    v1_views(c)
    c.method.temperature = 0.07
    c.method.projector.layers = 1
    c.optim.schedule = "step"
    return c


def v1_views(c: ConfigDict) -> None:
    """The augmentations of v1, weaker than v2's."""
    for view in (c.data.view1, c.data.view2):
        view.order = ("grayscale", "jitter", "flip")
        view.jitter = (0.4, 0.4, 0.4, 0.4)
        view.jitter_p = 1.0
