"""MoCo v1, ResNet-50 on ImageNet (arXiv:1911.05722).

python -m moco_jax.main --config=configs/v1_r50.py --workdir=DIR
Published: 53 h on 8 V100, batch 256, 200 epochs; linear top-1 60.6 to 60.8.
"""

from moco_jax import config
from moco_jax.config import ConfigDict


def get_config() -> ConfigDict:
    c = config.default()
    for view in (c.data.view1, c.data.view2):
        view.order = ("grayscale", "jitter", "flip")
        view.jitter = (0.4, 0.4, 0.4, 0.4)
        view.jitter_p = 1.0
    c.method.temperature = 0.07
    c.method.projector.layers = 1
    c.optim.schedule = "step"
    return c
