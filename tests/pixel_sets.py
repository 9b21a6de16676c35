"""Images with label maps as people have them, written into a folder."""

import numpy as np
from PIL import Image

from moco_jax import config
from tests.annotations import picture

SIDES = 40, 60


def label_map(path, numbers=None, mode="P", classes=21, seed=0):
    """A PNG of numbers: those given, or random ones with a border that is ignored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if numbers is None:
        numbers = np.random.default_rng(seed).integers(0, classes, SIDES).astype(np.uint8)
        numbers[:2] = 255
    image = Image.fromarray(np.asarray(numbers, np.uint8), "L")
    if mode == "P":
        image = image.copy()
        image.putpalette(np.random.default_rng(9).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.convert(mode).save(path)


def voc(root, names, lists=(), labels="SegmentationClass"):
    """A set of VOC's layout, and lists of it: split -> lines."""
    for i, name in enumerate(names):
        picture(root / "JPEGImages" / f"{name}.jpg", *SIDES, seed=i)
        label_map(root / labels / f"{name}.png", seed=i)
    for split, lines in dict(lists).items():
        folder = root / "ImageSets" / "Segmentation"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def cityscapes(root, splits, end="labelIds"):
    """A set of Cityscapes' layout: split -> names, each in a city of its own."""
    for split, names in splits.items():
        for i, name in enumerate(names):
            picture(root / "leftImg8bit" / split / name / f"{name}_leftImg8bit.png", *SIDES, seed=i)
            classes = 34 if end == "labelIds" else 19
            path = root / "gtFine" / split / name / f"{name}_gtFine_{end}.png"
            label_map(path, mode="L", classes=classes, seed=i)


def plain(root, count=16):
    """A set of VOC's layout whose images are of one colour and, as their pixels, of one class.

    Classes 0, 1 and 2 in turn; the last quarter tests.
    """
    names, train = [f"{i:02}" for i in range(count)], count * 3 // 4
    voc(root, names, {"train": names[:train], "val": names[train:]})
    for i, name in enumerate(names):
        colour = ((30, 30, 30), (220, 40, 40), (40, 40, 220))[i % 3]
        image = Image.fromarray(np.full((*SIDES, 3), colour, np.uint8))
        image.save(root / "JPEGImages" / f"{name}.jpg")
        label_map(root / "SegmentationClass" / f"{name}.png", np.full(SIDES, i % 3))


def tiny_config(root):
    """A training on such a set."""
    c = config.default()
    c.protocol, c.init_part = "segmentation", "backbone"
    c.data.update(source=f"voc:{root}", batch_size=8, eval_batch_size=8, threads=2)
    c.model.update(name="resnet18", dtype="float32")
    c.model.resnet.width = 1 / 16
    c.epochs = 30.0
    c.segmentation.update(channels=8, crop=(33, 33), canvas=(49, 65))
    c.optim.update(base_lr=3.2, warmup_epochs=1.0)
    return c
