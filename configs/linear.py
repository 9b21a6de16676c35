"""Linear probe: a classifier on the features of a frozen backbone, as the papers evaluate.

python -m moco_jax.main --config=configs/linear.py:v2_r50 --config.init=CHECKPOINT --workdir=DIR
with :v1_r50, :v2_r50 (SGD 30 at batch 256, 100 epochs, times 0.1 at 60 and 80), :v3_r50, :v3_s16,
:v3_b16 (90 epochs, cosine, batch 1024), :cifar10 (of v2_r18_cifar10.py), :fashion, :demo.
CHECKPOINT is a workdir or any file that moco_jax.convert reads; without one the backbone is random.
Of a workdir images, network, image size, mean and std are taken, unless the command line says
others.
--config.model.name=pixels probes the raw pixels.

Other learning rates train at once with the protocol's own, as heads on the same features; a
hundredth of the training images is held out to choose among them. --config.supervised.lrs='()' is
the protocol alone, on all images.
Published top-1: v1 60.6, v2 67.5 (800 epochs 71.1), v3 ResNet-50 68.9 / 72.8 / 74.6 after 100 / 300
/ 1000 epochs, ViT-S 73.2, ViT-B 76.7. ResNet-50 and ViT need 8 GPUs for about a day (not measured).
:demo takes 1 minute on 2 CPU cores: benchmarks/RESULTS.md.
"""

from configs import demo, fashion_r18, v1_r50, v2_r18_cifar10, v2_r50, v3_r50, v3_vit
from moco_jax import config
from moco_jax.config import ConfigDict

PRETRAINING = {
    "v1_r50": v1_r50.get_config,
    "v2_r50": v2_r50.get_config,
    "v3_r50": v3_r50.get_config,
    "v3_s16": lambda: v3_vit.get_config("s16"),
    "v3_b16": lambda: v3_vit.get_config("b16"),
    "cifar10": v2_r18_cifar10.get_config,
    "fashion": fashion_r18.get_config,
    "demo": demo.get_config,
}


def get_config(variant: str = "demo") -> ConfigDict:
    variant = config.choose("variant", variant, PRETRAINING)
    c = probe(PRETRAINING[variant]())
    if variant.startswith("v3"):
        c.epochs = 90.0
        c.data.batch_size = 1024
        base = 0.1 if variant == "v3_r50" else 3.0  # at 256 images
        c.optim.update(base_lr=base, schedule="cosine")
        c.supervised.lrs = tuple(base * x for x in (0.1, 0.3, 3.0, 10.0))
    if variant in ("cifar10", "fashion", "demo"):
        c.data.batch_size = 256
        c.supervised.update(held_out=0.1, lrs=(0.3, 1.0, 3.0, 10.0))
    if variant == "demo":
        c.epochs = 30.0
        c.data.batch_size = 128
        c.optim.schedule = "cosine"
        c.supervised.update(augment=False, every_epochs=10.0)
        c.log.every_steps = 100
    return c


def probe(c: ConfigDict) -> ConfigDict:
    """The protocol of v1 and v2 for the network and the data of a pre-training."""
    c.epochs = 100.0
    c.init_part, c.init_recipe = "backbone", True
    c.data.view1.update(crop_area=(0.08, 1.0), order=("flip",))
    c.protocol, c.method.bn_group_size = "supervised", 0
    c.optim = config.default().optim.unlock()
    c.optim.update(base_lr=30.0, schedule="step", step_epochs=(60, 80), weight_decay=0.0)
    c.optim.lock()
    c.supervised.lrs = (1.0, 3.0, 10.0, 100.0)
    c.knn.every_epochs = 0.0
    return c
