"""Pascal VOC's annotations: an XML file for each image; `voc:PATH`, several joined by a comma.

n objects of an image

The image's own size and the file's own name count, not what the XML says of them: it is often from
another machine, or of the image before it was made smaller.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from moco_jax.data import listing
from moco_jax.data.patience import for_each
from moco_jax.data.summary import LeftOut
from moco_jax.detection import voc_layout, xmlfile
from moco_jax.detection.annotated import Annotated, AnnotatedSet, AnnotatedSplits, understood_of
from moco_jax.detection.corners import Account, mend
from moco_jax.detection.image_files import size_of
from moco_jax.detection.voc_layout import Folder
from moco_jax.errors import InputError

_READERS = 16  # files at a time: on a network, reading is waiting
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FIRST = 1  # the number of the first pixel

NO_IMAGE, NO_ANNOTATION = "annotations without an image", "images without an annotation"
UNREADABLE, NO_BOX = "images that cannot be read", "objects without a name or a box"


class _Read(NamedTuple):
    """What is in one image's files; the size is None where the image cannot be read."""

    key: str
    path: str
    size: tuple[int, int] | None
    names: list[str]
    boxes: np.ndarray
    difficult: np.ndarray
    without: int


def open_voc(where: str) -> AnnotatedSplits:
    """Opens `voc:PATH` or `voc:PATH,PATH`.

    Raises:
      InputError: a folder is in none of the forms, an XML file is none, or nothing is left.
      MissingError: a folder does not exist.
      StorageError: files cannot be read, again and again.
    """
    folders = voc_layout.find(where)
    trains, tests, said = voc_layout.split(folders)
    parts = [_read_part(folders, keys) for keys in (trains, tests)]
    names = tuple(sorted({name for found, _ in parts for read in found for name in read.names}))
    train, test = (_set(where, found, account, names) for found, account in parts)
    for part, wanted in ((train, True), (test, any(tests))):
        if wanted and not part.images:
            left = LeftOut(part.understood.left_out)
            raise InputError(f"voc:{where}: no annotated image is left; {left}")
    train = _noting(train, f"voc: {said}")
    return AnnotatedSplits(train, test if any(tests) else None)


def _noting(part: AnnotatedSet, note: str) -> AnnotatedSet:
    return dataclasses.replace(part, understood=part.understood.noting(note))


def _read_part(
    folders: Sequence[Folder], keys: Iterable[Sequence[str]]
) -> tuple[list[_Read], Account]:
    """Reads a split of each folder."""
    account, found = Account(LeftOut(), LeftOut()), []
    for folder, wanted in zip(folders, keys):
        account.left_out.add(folder.left_out)
        there = []
        for key in wanted:
            if key not in folder.annotations:
                account.left_out.note(NO_ANNOTATION, key)
            elif key not in folder.images:
                account.left_out.note(NO_IMAGE, key)
            else:
                there.append(key)
        found += for_each(functools.partial(_read, folder), there, _READERS)
    return found, account


def _read(folder: Folder, key: str) -> _Read:
    file = folder.annotations[key]
    data = listing.read_again(file)
    root = xmlfile.parse(data, file)
    objects = [(_text(o, "name"), o.find("bndbox"), o) for o in root.findall("object")]
    used = [(name, _corners(box, file), o) for name, box, o in objects if name and box is not None]
    return _Read(
        key=key,
        path=folder.images[key],
        size=size_of(folder.images[key]),
        names=[name for name, _, _ in used],
        boxes=np.array([box for _, box, _ in used], np.float64).reshape(-1, 4),
        difficult=np.array([_text(o, "difficult") == "1" for _, _, o in used], bool),
        without=len(objects) - len(used),
    )


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _corners(box: Element, file: str) -> list[float]:
    texts = [_text(box, side) for side in _SIDES]
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise InputError(f"{file}: a box of {texts}; expected four numbers") from None


def _set(
    where: str, found: Sequence[_Read], account: Account, names: tuple[str, ...]
) -> AnnotatedSet:
    images = []
    for read in found:
        if read.size is None:
            account.left_out.note(UNREADABLE, read.key)
            continue
        if read.without:
            account.left_out.note(NO_BOX, read.key, read.without)
        images.append(_annotated(read, len(images), account, names))
    understood = understood_of(f"voc:{where}", images, names, "boxes in XML", account)
    return AnnotatedSet(f"voc:{where}", tuple(images), names, understood=understood)


def _annotated(read: _Read, number: int, account: Account, names: tuple[str, ...]) -> Annotated:
    height, width = read.size
    boxes, kept = mend(read.boxes, height, width, _FIRST, account, read.key)
    classes = np.array([names.index(name) for name in read.names], np.int32)
    return Annotated(
        path=read.path,
        name=os.path.basename(read.path),
        number=number,
        height=height,
        width=width,
        boxes=boxes,
        classes=classes[kept],
        difficult=read.difficult[kept],
        crowd=np.zeros(len(kept), bool),
        ids=np.arange(len(kept)),
        shapes=(),
        keypoints=np.zeros((len(kept), 0, 3), np.float32),
    )
