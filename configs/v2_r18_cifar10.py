"""MoCo v2 on CIFAR-10: the authors' demonstration, ResNet-18 with a CIFAR stem.

python -m moco_jax.main --config=configs/v2_r18_cifar10.py:200 --workdir=DIR
with :200, :400, :800 epochs, or :200_symmetric, :400_symmetric, :800_symmetric.
Published kNN top-1: 82.6 / 86.3 / 88.7, symmetric 85.3 / 88.5 / 89.7.
The ablations of v1 and v2 as arguments: configs/v2_r18_cifar10.py:200,m=0.9,mlp=on; here there is
no MLP unless it is asked for.
"""

from configs import v2_r50
from moco_jax import config
from moco_jax.ablations import ablated, one_of
from moco_jax.config import ConfigDict

VARIANTS = tuple(e + s for e in ("200", "400", "800") for s in ("", "_symmetric"))
ABLATIONS = v2_r50.ABLATIONS | {
    "mlp": one_of("mlp", {"on": {"method.projector": config.mlp(hidden=0)}, "off": {}}),
}


def get_config(argument: str = "200") -> ConfigDict:
    return ablated(argument, _recipe, VARIANTS, ABLATIONS)


def _recipe(variant: str) -> ConfigDict:
    c = config.default()
    c.epochs = float(variant.split("_")[0])
    c.data.update(
        source="tfds:cifar10",
        batch_size=512,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        eval_crop_share=1.0,
    )
    for view in (c.data.view1, c.data.view2):
        view.crop_area = (0.08, 1.0)
        view.order = ("flip", "jitter", "grayscale")
    c.model.name = "resnet18"
    c.model.resnet.stem = "cifar"
    c.method.update(
        temperature=0.1,
        ema=0.99,
        queue_size=4096,
        symmetric=variant.endswith("_symmetric"),
        bn_group_size=64,
        projector=config.mlp(layers=1),
    )
    c.optim.update(base_lr=0.03, weight_decay=5e-4)  # 0.06 at the batch of 512
    c.knn.update(every_epochs=5.0, k=200, temperature=0.1, features="projection")
    return c
