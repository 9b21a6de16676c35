"""Cityscapes' label maps: `cityscapes:PATH`, the folder with leftImg8bit and gtFine in it."""

import os
import pathlib

from moco_jax import places
from moco_jax.data import listing
from moco_jax.data.source import existing
from moco_jax.data.summary import LeftOut
from moco_jax.detection.label_maps import IGNORED, Code
from moco_jax.detection.segmented import NO_IMAGE, Labels, SegmentedSet, SegmentedSplits, make_set
from moco_jax.errors import InputError

# Number of each class in labelIds, by its number in labelTrainIds; the others are ignored
# (cityscapesscripts/helpers/labels.py).
_CLASSES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
CLASSES = tuple(_CLASSES)
_IDS = 34
IDS = Code(
    dict.fromkeys(range(_IDS), IGNORED) | {own: i for i, own in enumerate(_CLASSES.values())}
)
_IMAGES, _LABELS = "leftImg8bit", "gtFine"
_IMAGE_END = "_leftImg8bit.png"
# The first that an image has counts.
_LABEL_ENDS = {
    "_gtFine_labelIds.png": IDS,
    "_gtFine_labelTrainIds.png": Code.plain(len(CLASSES)),
}
_TRAIN, _TEST = "train", "val"
OTHER_NAME = f"images whose name does not end in {_IMAGE_END}"


def open_cityscapes(where: str) -> SegmentedSplits:
    """Opens `cityscapes:PATH`: `train` is trained on, `val` tests; `test` has no label maps.

    Raises:
      InputError: the folders are not there.
      MissingError: the path does not exist.
      StorageError: files cannot be read, again and again.
    """
    root = existing(str(places.local("cityscapes", where.strip())))
    for kind in (_IMAGES, _LABELS):
        if not (root / kind / _TRAIN).is_dir():
            seen = ", ".join(sorted(os.listdir(root))[:5]) if root.is_dir() else "no folder"
            raise InputError(f"cityscapes:{root} has no {kind}/{_TRAIN}; expected {_IMAGES} and "
                             f"{_LABELS}, with train and val in each; it holds {seen}")  # fmt: skip
    test = _read(root, _TEST) if (root / _IMAGES / _TEST).is_dir() else None
    return SegmentedSplits(_read(root, _TRAIN), test)


def _read(root: pathlib.Path, split: str) -> SegmentedSet:
    images, labels, left_out = {}, {}, LeftOut()
    found = listing.walk(str(root / _IMAGES / split), "")
    left_out.add(found.left_out)
    for path in found.images:
        if path.endswith(_IMAGE_END):
            images[path.removesuffix(_IMAGE_END)] = str(root / _IMAGES / split / path)
        else:
            left_out.note(OTHER_NAME, path)
    below = root / _LABELS / split
    maps = listing.walk(str(below), "").images if below.is_dir() else []
    for end, code in _LABEL_ENDS.items():
        for path in [path for path in maps if path.endswith(end)]:
            labels.setdefault(path.removesuffix(end), Labels(str(below / path), code))
    for key in labels.keys() - images.keys():
        left_out.note(NO_IMAGE, key)
    name = f"cityscapes:{root}, {split}"
    return make_set(name, sorted(images), images, labels, CLASSES, left_out=left_out)
