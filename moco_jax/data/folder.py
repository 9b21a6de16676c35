"""Sources that are folders of image files."""

import concurrent.futures
import difflib
import functools
import itertools
import logging
import os
import time
from collections.abc import Sequence

import numpy as np

from moco_jax.data import index
from moco_jax.data.index import Index
from moco_jax.data.source import EncodedSource, Splits, existing
from moco_jax.errors import InputError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST_FOLDERS = ("val", "valid", "validation", "test")  # the first that exists
_LISTERS = 16  # folders listed at a time: on a network, listing is waiting


def open_folder(where: str, cache_dir: str = "") -> Splits:
    """Opens a folder of JPEG, PNG, WebP and BMP files.

    With a sub-folder `train`, that is the training set and `val` (or `valid`, `validation`,
    `test`) the test set; otherwise the folder itself is the training set. In either, each
    sub-folder that holds images, at any depth, is a class; images without sub-folders have no
    labels; images beside class folders are an error. Classes and files are sorted by name;
    hidden ones, and files with other extensions, are passed over.

    Args:
      where: The folder.
      cache_dir: Where the list of files is kept for the next time; see `index.cache_file`.

    Raises:
      MissingError: the folder does not exist.
      InputError: it holds no images, or not in one of these forms.
    """
    root = existing(where)
    if not root.is_dir():
        raise InputError(f"folder:{root} is a file; expected a folder of images")
    splits = [name for name in ("train", *TEST_FOLDERS) if (root / name).is_dir()]
    if "train" not in splits:
        if splits and set(_subfolders(root)) == set(splits):
            raise InputError(f"folder:{root} holds {splits[0]!r} but no 'train' beside it")
        return Splits(_source(_index(str(root), cache_dir)), None)
    train = _index(str(root / "train"), cache_dir)
    if len(splits) == 1:
        return Splits(_source(train), None)
    test = _index(str(root / splits[1]), cache_dir)
    return Splits(_source(train), _source(test, train))


def _index(root: str, cache_dir: str) -> Index:
    """The images of one split, from the list that is kept or by listing them."""
    file = index.cache_file(cache_dir, root)
    known = index.load(file)
    if known:
        return known
    log.info("Listing the images of %s ...", root)
    begin = time.time_ns()
    images, folders = _list(root)
    return index.save(images, folders, begin, file)


def _list(root: str) -> tuple[Index, dict[str, int]]:
    """Lists the images of one split; the second are the folders, each with its time in ns."""
    folders = {"": os.stat(root).st_mtime_ns}
    direct = sorted(e.name for e in os.scandir(root) if _is_image(e) and not e.is_dir())
    by_class = {}
    with concurrent.futures.ThreadPoolExecutor(_LISTERS) as pool:
        names = _subfolders(root)
        for name, (paths, times) in zip(names, pool.map(functools.partial(_walk, root), names)):
            folders |= times
            if paths:
                by_class[name] = paths
    if direct and by_class:
        raise InputError(
            f"folder:{root} holds images ({direct[0]!r} and {len(direct) - 1} more) beside class "
            f"folders ({next(iter(by_class))!r} and {len(by_class) - 1} more); keep one of the two"
        )
    if not direct and not by_class:
        raise InputError(
            f"folder:{root} holds no image (files ending in {', '.join(EXTENSIONS)}), directly or "
            f"in class folders; it holds {', '.join(sorted(os.listdir(root))[:5]) or 'nothing'}"
        )
    if direct:
        return Index.of(root, direct, None, ()), folders
    labels = np.repeat(np.arange(len(by_class)), [len(paths) for paths in by_class.values()])
    paths = list(itertools.chain.from_iterable(by_class.values()))
    return Index.of(root, paths, labels.astype(np.int32), tuple(by_class)), folders


def _walk(root: str, folder: str) -> tuple[list[str], dict[str, int]]:
    """Sorted paths of the images in a folder of `root`, at any depth; its folders' times."""
    found, times, left = [], {}, [folder]
    while left:
        below = left.pop()
        where = os.path.join(root, below)
        times[below] = os.stat(where).st_mtime_ns  # before the listing: what comes later shows
        with os.scandir(where) as entries:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith("."):
                    left.append(os.path.join(below, entry.name))
                elif _is_image(entry):
                    found.append(os.path.join(below, entry.name))
    return sorted(found), times


def _numbers(test: Index, train: Index) -> np.ndarray | None:
    """For each class of `test` its number in `train`; None where one of them has no classes."""
    if train.labels is None or test.labels is None:
        return None
    odd = sorted(set(test.class_names) - set(train.class_names))
    if odd:
        near = difflib.get_close_matches(odd[0], train.class_names, 1, 0.0)[0]
        raise InputError(
            f"folder:{test.root}: class {odd[0]!r} is not among the {len(train.class_names)} "
            f"classes of {train.root}; the nearest there is {near!r}"
        )
    numbers = {name: number for number, name in enumerate(train.class_names)}
    return np.array([numbers[name] for name in test.class_names], np.int32)


def _source(images: Index, train: Index | None = None) -> EncodedSource:
    """A source; of test images with the numbers that their classes have in `train`."""
    train = train or images
    numbers = _numbers(images, train)
    return EncodedSource(
        name=f"folder:{images.root}",
        size=len(images),
        read=functools.partial(_read, images, numbers),
        item_name=images.path,
        labelled=numbers is not None,
        class_names=train.class_names if numbers is not None else (),
        read_labels=None if numbers is None else functools.partial(_labels, images, numbers),
    )


def _labels(images: Index, numbers: np.ndarray) -> np.ndarray:
    return numbers[images.labels]


def _read(images: Index, numbers: np.ndarray | None, i: int) -> tuple[bytes, int]:
    with open(images.path(i), "rb", buffering=0) as file:
        return file.readall(), -1 if numbers is None else int(numbers[images.labels[i]])


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")


def _subfolders(root: str) -> Sequence[str]:
    """Names of the folders in `root`, sorted."""
    return sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
    )
