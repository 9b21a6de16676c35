"""End-to-end training, as MoCo v1 compares itself with it (arXiv:1911.05722, section 4.1).

python -m moco_jax.main --config=configs/end_to_end.py:r50 --workdir=DIR
with :r50, :s16, :b16, :cifar10, :demo
The batch is the dictionary: 1024 is the largest that 8 V100 held in the paper. No ViT has been
published. The demonstration is as long as configs/demo.py.
Arguments: configs/end_to_end.py:r50,batch=256, which is the dictionary's size (figure 3); tau, lr.
"""

from configs import demo, v1_r50, v2_r18_cifar10, v3_vit
from moco_jax.ablations import BATCH, RATE, ablated, number
from moco_jax.config import ConfigDict

VARIANTS = ("r50", "s16", "b16", "cifar10", "demo")
ABLATIONS = {"tau": number("method.temperature"), "batch": BATCH, "lr": RATE}


def get_config(argument: str = "r50") -> ConfigDict:
    return ablated(argument, _recipe, VARIANTS, ABLATIONS)


def _recipe(variant: str) -> ConfigDict:
    if variant == "r50":
        c = v1_r50.get_config()
        c.data.batch_size = 1024  # the rate grows with it, as in the paper
    elif variant in ("s16", "b16"):
        c = v3_vit.get_config(variant)
        c.method.predictor.layers = 0
    elif variant == "cifar10":
        c = v2_r18_cifar10.get_config("200")
    else:
        c = demo.get_config()
        c.epochs = 54.0  # both views have a gradient: 3/2 of the time of MoCo's demonstration
    c.method.name = "end_to_end"
    return c
