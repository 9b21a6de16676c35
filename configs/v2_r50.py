"""MoCo v2, ResNet-50 on ImageNet (arXiv:2003.04297).

python -m moco_jax.main --config=configs/v2_r50.py --workdir=DIR
python -m moco_jax.main --config=configs/v2_r50.py:800 --workdir=DIR
Published: 53 h on 8 V100, batch 256, 200 epochs; linear top-1 67.5 to 67.7. 800 epochs: 71.1.
"""

from moco_jax import config
from moco_jax.config import ConfigDict


def get_config(epochs: str = "200") -> ConfigDict:
    c = config.default()  # the defaults are this recipe
    c.epochs = float(config.choose("epochs", epochs, ("200", "800")))
    return c
