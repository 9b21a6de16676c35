"""Sources that are folders of image files."""

import difflib
import functools
import itertools
import os
import pathlib
from typing import NamedTuple, NoReturn

import numpy as np

from moco_jax.data.source import EncodedSource, Splits, existing

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST_FOLDERS = ("val", "valid", "validation", "test")  # the first that exists


class _Files(NamedTuple):
    """Image files of one split, in order, with their classes; () where they have none."""

    root: pathlib.Path
    paths: list[str]  # below the root
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def open_folder(where: str) -> Splits:
    """Opens a folder of JPEG, PNG, WebP and BMP files.

    With a sub-folder `train`, that is the training set and `val` (or `valid`, `validation`,
    `test`) the test set; otherwise the folder itself is the training set. In either, each
    sub-folder that holds images, at any depth, is a class; images without sub-folders have no
    labels; images beside class folders are an error. Classes and files are sorted by name;
    hidden ones, and files with other extensions, are passed over.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: it holds no images, or not in one of these forms.
    """
    root = existing(where)
    if not root.is_dir():
        raise ValueError(f"folder:{root} is a file; expected a folder of images")
    splits = [name for name in ("train", *TEST_FOLDERS) if (root / name).is_dir()]
    if "train" not in splits:
        if splits and set(_subfolders(root)) == set(splits):
            raise ValueError(f"folder:{root} holds {splits[0]!r} but no 'train' beside it")
        return Splits(_source(_index(root)), None)
    train = _index(root / "train")
    if len(splits) == 1:
        return Splits(_source(train), None)
    return Splits(_source(train), _source(_with_classes_of(train, _index(root / splits[1]))))


def _index(root: pathlib.Path) -> _Files:
    """Lists the images of one split."""
    direct = sorted(name for name in os.listdir(root) if _is_image(name))
    by_class = {name: _images(root, name) for name in _subfolders(root)}
    by_class = {name: paths for name, paths in by_class.items() if paths}
    if direct and by_class:
        raise ValueError(
            f"folder:{root} holds images ({direct[0]!r} and {len(direct) - 1} more) beside class "
            f"folders ({next(iter(by_class))!r} and {len(by_class) - 1} more); keep one of the two"
        )
    if not direct and not by_class:
        raise ValueError(
            f"folder:{root} holds no image (files ending in {', '.join(EXTENSIONS)}), directly or "
            f"in class folders; it holds {', '.join(sorted(os.listdir(root))[:5]) or 'nothing'}"
        )
    if direct:
        return _Files(root, direct, None, ())
    labels = np.repeat(np.arange(len(by_class)), [len(paths) for paths in by_class.values()])
    paths = list(itertools.chain.from_iterable(by_class.values()))
    return _Files(root, paths, labels.astype(np.int32), tuple(by_class))


def _with_classes_of(train: _Files, test: _Files) -> _Files:
    """`test` with the numbers that its class names have in `train`."""
    if train.labels is None or test.labels is None:
        return test._replace(labels=None, class_names=())
    odd = sorted(set(test.class_names) - set(train.class_names))
    if odd:
        near = difflib.get_close_matches(odd[0], train.class_names, 1, 0.0)[0]
        raise ValueError(
            f"folder:{test.root}: class {odd[0]!r} is not among the {len(train.class_names)} "
            f"classes of {train.root}; the nearest there is {near!r}"
        )
    numbers = np.array([train.class_names.index(name) for name in test.class_names], np.int32)
    return test._replace(labels=numbers[test.labels], class_names=train.class_names)


def _source(files: _Files) -> EncodedSource:
    return EncodedSource(
        name=f"folder:{files.root}",
        size=len(files.paths),
        read=functools.partial(_read, files),
        item_name=functools.partial(_item_name, files),
        labelled=files.labels is not None,
        class_names=files.class_names,
    )


def _read(files: _Files, index: int) -> tuple[bytes, int]:
    with open(files.root / files.paths[index], "rb") as file:
        return file.read(), -1 if files.labels is None else int(files.labels[index])


def _item_name(files: _Files, index: int) -> str:
    return str(files.root / files.paths[index])


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _subfolders(root: pathlib.Path) -> list[str]:
    """Names of the folders in `root`, sorted."""
    return sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
    )


def _images(root: pathlib.Path, folder: str) -> list[str]:
    """Paths below `root` of the images in one of its folders, at any depth, sorted."""
    found = []
    for where, folders, files in os.walk(root / folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(where, root)
        found += [os.path.join(below, name) for name in files if _is_image(name)]
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    # os.walk would pass over a folder that it may not read.
    raise error
