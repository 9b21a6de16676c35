"""MoCo v2's two views as its users make them, with torchvision on PIL images: the peer."""

import random

import torch
from PIL import Image, ImageFilter

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import transforms

torch.set_num_threads(1)


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


CROP = transforms.RandomResizedCrop(224, scale=(0.2, 1.0))
RECIPE = transforms.Compose(
    [
        CROP,
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([_blur], p=0.5),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def load(path: str) -> Image.Image:
    """An image as torchvision's ImageFolder loads it."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def two_views(path: str) -> list[torch.Tensor]:
    """Both views of an image, float32 (3, 224, 224)."""
    image = load(path)
    return [RECIPE(image), RECIPE(image)]


def two_crops(path: str) -> list[Image.Image]:
    """The part of the recipe that is our host's: decode and crop."""
    image = load(path)
    return [CROP(image), CROP(image)]
