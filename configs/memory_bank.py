"""A memory bank (arXiv:1805.01978), as MoCo v1 compares itself with it (1911.05722, section 4.1).

python -m moco_jax.main --config=configs/memory_bank.py:r50 --workdir=DIR
with :r50, :r50_nce (the original's loss), :s16, :b16, :cifar10, :demo
Published linear top-1, ResNet-50, 200 epochs, 8 V100: 58.0 (InfoNCE); 54.0 for the original. No ViT
has been published. The demonstration is as long as configs/demo.py.
Arguments: configs/memory_bank.py:r50,K=4096 (figure 3); tau, batch, lr.
"""

from configs import demo, v1_r50, v2_r18_cifar10, v3_vit
from moco_jax.ablations import BATCH, RATE, ablated, number
from moco_jax.config import ConfigDict

VARIANTS = ("r50", "r50_nce", "s16", "b16", "cifar10", "demo")
ABLATIONS = {
    "K": number("method.queue_size", int),
    "tau": number("method.temperature"),
    "batch": BATCH,
    "lr": RATE,
}


def get_config(argument: str = "r50") -> ConfigDict:
    return ablated(argument, _recipe, VARIANTS, ABLATIONS)


def _recipe(variant: str) -> ConfigDict:
    if variant.startswith("r50"):
        c = v1_r50.get_config()  # K = 65536, tau 0.07, one linear layer
        if variant == "r50_nce":  # of the original's public code
            c.method.bank_loss, c.method.queue_size = "nce", 4096
    elif variant in ("s16", "b16"):
        c = v3_vit.get_config(variant)
        c.data.view2 = c.data.view1  # there is one view
        c.method.predictor.layers = 0
        c.method.queue_size = 65536  # v1's
    elif variant == "cifar10":
        c = v2_r18_cifar10.get_config("200")
    else:
        c = demo.get_config()
        c.epochs = 100.0  # one view: 3/4 of the time of MoCo's demonstration
    c.method.name = "memory_bank"
    return c
