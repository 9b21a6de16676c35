"""Fine-tuning of a pre-trained network with labels, and transfer to smaller data sets.

python -m moco_jax.main --config=configs/finetune.py:demo --config.init=CHECKPOINT --workdir=DIR
with :vit_s16_imagenet, :vit_b16_imagenet, :vit_l16_imagenet (DeiT's recipe, arXiv:2012.12877, as
MoCo v3 takes it), :vit_b16_cifar10, :vit_b16_cifar100, :vit_b16_flowers102, :vit_b16_pets,
:resnet50_imagenet (SimCLR's, of a ResNet; 30 epochs as with a tenth of the labels), :demo.
CHECKPOINT is a workdir or any file that moco_jax.convert reads; without one the network starts
from scratch. Of a workdir images, network, image size, mean and std are taken, unless the command
line says others or the variant names a data set to transfer to. --config.data.label_share=0.01
takes a hundredth of the labels.

Published top-1: ImageNet S 81.4, B 83.2, L 84.1; CIFAR-10 98.9, CIFAR-100 90.5, Flowers 97.7, Pets
93.2. Where this differs from the releases: the cosine goes by step, from 0 and to 0 (timm's by
epoch, from 1e-6 and to 1e-5); one view of an image a batch (DeiT repeats it three times); DeiT's
rate of 5e-4 at 512 images is base_lr 2.5e-4 here, the transfer's of 3e-4 at 128 is 6e-4.
TFDS's Flowers-102 is trained on its 1,020 training images and tested on its validation images.
ImageNet, ViT-B: a day on 8 GPUs (not measured). :demo takes 1 minute on 2 CPU cores: a small
ResNet on the embedded images; as many steps for any share of the labels. With 1% of them it has
73.2 after `make demo`, 67.0 from scratch at the rate best there (benchmarks/RESULTS.md).
"""

from configs import demo, v2_r50, v3_vit
from moco_jax import config
from moco_jax.config import ConfigDict

# Epochs and stochastic depth on ImageNet.
IMAGENET = {"vit_s16": (300.0, 0.1), "vit_b16": (150.0, 0.1), "vit_l16": (100.0, 0.5)}
# TFDS's name, weight decay, mixup, cutmix, random erasing, stochastic depth.
TRANSFER = {
    "cifar10": ("cifar10", 0.1, 0.8, 1.0, 0.0, 0.1),
    "cifar100": ("cifar100", 0.1, 0.5, 1.0, 0.0, 0.1),
    "flowers102": ("oxford_flowers102", 0.3, 0.0, 0.0, 0.25, 0.1),
    "pets": ("oxford_iiit_pet", 0.1, 0.8, 0.0, 0.0, 0.0),
}
VARIANTS = (
    *(f"{network}_imagenet" for network in IMAGENET),
    *(f"vit_b16_{name}" for name in TRANSFER),
    "resnet50_imagenet",
    "demo",
)


def get_config(variant: str = "demo") -> ConfigDict:
    variant = config.choose("variant", variant, VARIANTS)
    if variant == "demo":
        return small()
    if variant == "resnet50_imagenet":
        return resnet()
    network, data = variant.rsplit("_", 1)
    c = deit(network)
    return c if data == "imagenet" else transfer(c, *TRANSFER[data])


def deit(network: str) -> ConfigDict:
    """DeiT's recipe on ImageNet."""
    c = finetune(v3_vit.get_config(network.removeprefix("vit_")))
    c.epochs, c.model.vit.drop_path = IMAGENET[network]
    c.data.batch_size = 1024
    c.data.view1.update(crop_area=(0.08, 1.0), order=("flip", "randaugment", "erase"))
    c.model.vit.position = "learned"
    c.optim.update(
        name="adamw",
        base_lr=2.5e-4,
        warmup_epochs=5.0,
        weight_decay=0.05,
        exclude_1d=True,
        exclude=("cls_token", "pos_embed"),
    )
    c.supervised.update(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    return c


def transfer(
    c: ConfigDict, data: str, decay: float, mixup: float, cutmix: float, erase: float, drop: float
) -> ConfigDict:
    """MoCo v3's transfer of ViT-B (its appendix)."""
    c.epochs, c.init_recipe = 100.0, False
    c.data.update(source=f"tfds:{data}", batch_size=128)
    c.data.view1.erase_p = erase
    c.model.vit.drop_path = drop
    c.optim.update(base_lr=6e-4, warmup_epochs=3.0, weight_decay=decay)
    c.supervised.update(mixup=mixup, cutmix=cutmix)
    return c


def finetune(c: ConfigDict) -> ConfigDict:
    """What all fine-tuning shares, for the network and the data of a pre-training."""
    c.init_part, c.init_recipe = "backbone", True
    c.protocol, c.method.bn_group_size = "supervised", 0
    c.optim = config.default().optim
    c.supervised.train_backbone = True
    c.knn.every_epochs = 0.0
    return c


def resnet() -> ConfigDict:
    """SimCLR's (arXiv:2002.05709, appendix B.5) at batch 256, and without Nesterov's step."""
    c = finetune(v2_r50.get_config())
    c.epochs = 30.0
    c.data.view1.update(crop_area=(0.08, 1.0), order=("flip",))
    c.optim.update(base_lr=0.05, weight_decay=0.0)
    return c


def small() -> ConfigDict:
    """The network and the images of demo.py."""
    c = finetune(demo.get_config())
    c.data.batch_size = 64
    c.epochs = 3.0 / c.data.get_ref("label_share")
    c.data.view1.update(crop_area=(0.5, 1.0), order=("flip",))
    c.optim.update(base_lr=0.03, weight_decay=5e-4)
    c.supervised.update(label_smoothing=0.1, every_epochs=0.0)
    return c
