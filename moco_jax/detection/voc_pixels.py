"""Pascal VOC's label maps: `voc:PATH`, the folder VOC2012 with SegmentationClass in it.

With the images of SBD (Hariharan et al., 2011), 10,582 in all, where a list names them.
"""

import pathlib

from moco_jax import places
from moco_jax.data import listing
from moco_jax.data.source import existing
from moco_jax.data.summary import LeftOut
from moco_jax.detection import voc_layout
from moco_jax.detection.label_maps import Code
from moco_jax.detection.segmented import Labels, SegmentedSplits, make_set
from moco_jax.detection.voc_layout import BOTH, TRAIN, VALIDATION
from moco_jax.errors import InputError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
# The names that lists with SBD's images have: all of them, or those beside VOC's own.
_AUGMENTED, _BESIDE = ("train_aug", "trainaug"), "aug"
_IMAGES = "JPEGImages"
# VOC's own label maps count first: they are finer.
_LABELS = ("SegmentationClass", "SegmentationClassAug")
TESTED = "images to train on that are tested on as well"


def open_voc_pixels(where: str) -> SegmentedSplits:
    """Opens `voc:PATH`.

    Trained on is the list `train_aug` or `trainaug`, or else `train` and, where it is there, `aug`;
    `val` tests. Without `train`, `trainval` is trained on; without lists all that has a label map.

    Raises:
      InputError: there are no label maps, lists but none to train on, or a list names no image.
      MissingError: the folder does not exist.
      StorageError: files cannot be read, again and again.
    """
    root = existing(str(places.local("voc", where.strip())))
    images, labels, twice = _files(root)
    names = (*_AUGMENTED, _BESIDE, TRAIN, BOTH, VALIDATION)
    lists = voc_layout.read_lists(root, "Segmentation", names)
    used = _trained(root, lists)
    keys = dict.fromkeys(key for name in used for key in lists[name])
    if not lists:
        keys = dict.fromkeys(sorted(images.keys() | labels.keys()))
    tested = lists.get(VALIDATION, ()) if BOTH not in used else ()
    for key in [key for key in tested if key in keys]:
        twice.note(TESTED, key)
        del keys[key]
    said = f"voc: {root.name} trains by {' and '.join(used) or 'all of it'}"
    said += ", tests by val" * bool(tested)
    name = f"voc:{root}"
    train = make_set(name, tuple(keys), images, labels, CLASSES, (said,), twice)
    return SegmentedSplits(
        train, make_set(name, tested, images, labels, CLASSES) if tested else None
    )


def _files(root: pathlib.Path) -> tuple[dict[str, str], dict[str, Labels], LeftOut]:
    """Images and label maps, and what is left out of them."""
    folders = listing.subfolders(str(root)) if root.is_dir() else []
    if _IMAGES not in folders or not set(_LABELS) & set(folders):
        seen = ", ".join(folders[:5]) or "no folders"
        raise InputError(f"voc:{root} holds {seen}; expected images in {_IMAGES} and label maps "
                         f"in {_LABELS[0]}, such as in VOCdevkit/VOC2012")  # fmt: skip
    images, left_out = voc_layout.images_in(root / _IMAGES)
    labels: dict[str, Labels] = {}
    code = Code.plain(len(CLASSES))
    for folder in [name for name in _LABELS if name in folders]:
        found, twice = voc_layout.images_in(root / folder)
        left_out.add(twice)
        labels = {key: Labels(path, code) for key, path in found.items()} | labels
    return images, labels, left_out


def _trained(root: pathlib.Path, lists: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the lists that are trained on; () where there are none."""
    for name in (*_AUGMENTED, TRAIN, BOTH):
        if name in lists:
            return (TRAIN, _BESIDE) if name == TRAIN and _BESIDE in lists else (name,)
    if lists:
        raise InputError(f"voc:{root} has lists of {', '.join(lists)} in ImageSets/Segmentation; "
                         "none to train on")  # fmt: skip
    return ()
