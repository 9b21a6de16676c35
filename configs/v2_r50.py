"""MoCo v2, ResNet-50 on ImageNet (arXiv:2003.04297).

python -m moco_jax.main --config=configs/v2_r50.py --workdir=DIR
python -m moco_jax.main --config=configs/v2_r50.py:800 --workdir=DIR
Published: 53 h on 8 V100, batch 256, 200 epochs; linear top-1 67.5 to 67.7. 800 epochs: 71.1.
The paper's ablations (tables 1 and 2): configs/v2_r50.py:mlp=off,aug=v1,tau=0.07,schedule=step is
v1, 60.6; mlp=off,schedule=step 63.4; schedule=step 67.3; tau=.07/.1/.2/.3/.4/.5 with aug=v1 and
schedule=step 62.9/64.9/66.2/65.7/65.0/64.3. v1's K, m, shuffle_bn, batch and lr as well.
"""

from configs import v1_r50
from moco_jax import config
from moco_jax.ablations import ablated, one_of
from moco_jax.config import ConfigDict

ABLATIONS = v1_r50.ABLATIONS | {
    "mlp": one_of("mlp", {"on": {}, "off": {"method.projector.layers": 1}}),
    "aug": one_of("aug", {"v1": v1_r50.v1_views, "v2": {}}),
    "schedule": one_of("schedule", {name: {"optim.schedule": name} for name in config.SCHEDULES}),
}


def get_config(argument: str = "200") -> ConfigDict:
    return ablated(argument, _recipe, ("200", "800"), ABLATIONS)


def _recipe(epochs: str) -> ConfigDict:
    c = config.default()  # the defaults are this recipe
    c.epochs = float(epochs)
    return c
