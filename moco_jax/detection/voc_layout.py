"""Where the files of a set in Pascal VOC's form lie, and which image is in which split.

The forms: VOC's own folders Annotations, JPEGImages and ImageSets/Main; two folders of annotations
and images; one folder of both; or folders train, valid and test of these.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from moco_jax import places
from moco_jax.data import layout, listing
from moco_jax.data.source import existing
from moco_jax.data.summary import LeftOut
from moco_jax.errors import InputError

_ANNOTATIONS = {"annotations", "annotation", "xml", "xmls", "labels"}
_IMAGES = {"jpegimages", "images", "image", "img", "imgs"}
TRAIN, BOTH, VALIDATION, TEST = "train", "trainval", "val", "test"
_TWICE = "images with the name of another"
_IMAGE_PATH = re.compile(r"^/?JPEGImages/([^/]+)\.\w+$")


class Folder(NamedTuple):
    """A set's files; a key is a file's path below the root without its ending.

    Attributes:
      root: of the set.
      annotations: key -> path.
      images: key -> path.
      lists: name of a split -> its keys; none where all is one split.
      left_out: files that are not used.
    """

    root: str
    annotations: dict[str, str]
    images: dict[str, str]
    lists: dict[str, tuple[str, ...]]
    left_out: LeftOut


def find(where: str) -> list[Folder]:
    """The sets of `voc:PATH,PATH`.

    Raises:
      InputError: a folder is none of the forms, a list names what is no file's name.
      MissingError: a folder does not exist.
    """
    return [_find(existing(str(places.local("voc", path.strip())))) for path in where.split(",")]


def _find(root: pathlib.Path) -> Folder:
    if not root.is_dir():
        raise InputError(f"voc:{root} is no folder")
    found = _flat(root, "")
    if found.annotations:
        return found._replace(lists=read_lists(root, "Main", (TRAIN, BOTH, VALIDATION, TEST)))
    lists, left_out = {}, LeftOut()
    for role, name in layout.pick(listing.subfolders(str(root))).items():
        part = _flat(root / name, name)
        found.annotations.update(part.annotations)
        found.images.update(part.images)
        left_out.add(part.left_out)
        keys = part.annotations.keys() | part.images.keys()
        lists[{layout.VALIDATION: VALIDATION}.get(role, role)] = tuple(sorted(keys))
    if not found.annotations:
        seen = ", ".join(sorted(os.listdir(root))[:5]) or "nothing"
        raise InputError(
            f"voc:{root} holds no annotations; expected XML files in a folder Annotations beside "
            f"JPEGImages, or beside the images, or folders train and test of these; it holds {seen}"
        )
    return found._replace(lists=lists, left_out=left_out)


def _flat(folder: pathlib.Path, below: str) -> Folder:
    """The files of one split, or of all where lists tell them apart."""
    names = {name.lower(): name for name in listing.subfolders(str(folder))}
    at = lambda known: folder / next((names[n] for n in names if n in known), "")  # noqa: E731
    annotations = {}
    for entry in sorted(os.listdir(at(_ANNOTATIONS))):
        if entry.lower().endswith(".xml") and not entry.startswith("."):
            key = os.path.join(below, entry[:-4])
            annotations[key] = str(at(_ANNOTATIONS) / entry)
    images, left_out = images_in(at(_IMAGES), below)
    return Folder(str(folder), annotations, images, {}, left_out)


def images_in(folder: pathlib.Path, below: str = "") -> tuple[dict[str, str], LeftOut]:
    """The images of a folder, key -> path, and those left out as another has their name.

    Args:
      folder: where they lie.
      below: what their keys begin with.
    """
    images, left_out = {}, LeftOut()
    for entry, kind in listing.scan(str(folder)):
        if kind == listing.IMAGE:
            key = os.path.join(below, os.path.splitext(entry)[0])
            if key in images:
                left_out.note(_TWICE, entry)
            images.setdefault(key, str(folder / entry))
    return images, left_out


def read_lists(root: pathlib.Path, kind: str, splits: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The lists of splits, each line a name and perhaps a flag after it, or an image's path.

    Args:
      root: of the set.
      kind: folder of ImageSets.
      splits: lists that are read where they are there.

    Raises:
      InputError: a list names what is no image's name.
    """
    lists = {}
    for split in splits:
        file = root / "ImageSets" / kind / f"{split}.txt"
        if file.is_file():
            lines = file.read_text("utf-8", "replace").splitlines()
            entries = (line.split()[0] for line in lines if line.strip())
            keys = tuple(dict.fromkeys(_IMAGE_PATH.sub(r"\1", entry) for entry in entries))
            for key in keys:
                if os.path.basename(key) != key:
                    raise InputError(f"{file}: {key!r} is no name of an image")
            lists[split] = keys
    return lists


def split(folders: Sequence[Folder]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], str]:
    """The keys of each folder that are trained on, those that are tested on, and why.

    Where one has a test list, all train on `trainval`, or `train` where there is none, and it
    tests: VOC07+12. Else `train` and `val`. A folder without lists is trained on as a whole.

    Raises:
      InputError: a folder has lists, and none to train on.
    """
    tested = any(TEST in folder.lists for folder in folders)
    first, second = (BOTH, TRAIN) if tested else (TRAIN, BOTH)
    trains, tests, said = [], [], []
    for folder in folders:
        lists, name = folder.lists, os.path.basename(folder.root)
        everything = tuple(sorted(folder.annotations.keys() | folder.images.keys()))
        used = next((split for split in (first, second) if split in lists), "")
        if lists and not used:
            raise InputError(f"voc:{folder.root} has lists of {', '.join(lists)}; none to train on")
        test = TEST if tested else VALIDATION if used == TRAIN else ""
        trains.append(lists[used] if used else everything)
        tests.append(lists.get(test, ()))
        said.append(f"{name} trains by {used or 'all of it'}")
        said += [f"tests by {test}"] * (test in lists)
        # Of `trainval` the others are parts.
        said += ["val is not used"] * (used == TRAIN and test == TEST and VALIDATION in lists)
    return trains, tests, ", ".join(said)
