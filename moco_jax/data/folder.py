"""Sources that are folders of image files."""

import difflib
import functools
import itertools
import logging
import time

import numpy as np

from moco_jax import places
from moco_jax.data import index, layout, listing
from moco_jax.data.formats import EXTENSIONS
from moco_jax.data.index import Index
from moco_jax.data.patience import waiting_for, while_it_lives
from moco_jax.data.source import EncodedSource, Opening, Splits, existing
from moco_jax.data.summary import LeftOut, Understood
from moco_jax.errors import InputError

log = logging.getLogger(__name__)


def open_folder(where: str, opening: Opening) -> Splits:
    """Opens a folder of image files.

    Which of its sub-folders are splits `layout` says; without any, the folder itself is the
    training set. In a split, each sub-folder that holds images, at any depth, is a class; images
    without sub-folders have no labels; images beside class folders are an error. Classes and files
    are sorted by name, and those of the training split number the classes. What `listing` leaves
    out is counted.

    Args:
      where: The folder.
      opening: Where the list of files is kept for the next time, see `index.cache_file`, and how
        long an answer of the system is waited for.

    Raises:
      MissingError: the folder does not exist.
      InputError: it holds no images, or not in one of these forms.
      StorageError: the place that it is in does not answer.
    """
    if scheme := places.scheme(where):
        raise InputError(
            f"folder:{where}: a file for each image is too slow in a bucket; expected tar shards "
            f"(docs/data.md): wds:{scheme}://..., or a folder of a file system"
        )
    opened = functools.partial(_open, where, opening)
    return while_it_lives(opened, opening.read_seconds)


def _open(where: str, opening: Opening) -> Splits:
    with waiting_for(where):
        root = existing(where)
        if not root.is_dir():
            raise InputError(f"folder:{root} is a file; expected a folder of images")
    found = layout.find(root)
    train = _index(found.train, opening.cache_dir)
    source = _source(train, train, found.notes)
    if found.test is None:
        return Splits(source, None)
    try:
        test = _index(found.test, opening.cache_dir)
    except InputError as error:
        raise InputError(f"{error}. folder:{train.root} trains without it") from error
    _check_flat(test, train)
    return Splits(source, _source(test, train))


def _check_flat(test: Index, train: Index) -> None:
    """Refuses a validation split without class folders beside a training split with them."""
    if train.labels is None or test.labels is not None:
        return
    if layout.role(test.root.rpartition("/")[2]) == layout.VALIDATION:
        raise InputError(
            f"folder:{test.root} holds {len(test)} images without class folders, but "
            f"{train.root} has {len(train.class_names)} classes; expected folders such as "
            f"{test.root}/{train.class_names[0]}. folder:{train.root} trains without it"
        )


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
    direct, by_class, rest = listing.list_classes(root)
    if direct and by_class:
        raise InputError(
            f"folder:{root} holds images ({direct[0]!r} and {len(direct) - 1} more) beside class "
            f"folders ({next(iter(by_class))!r} and {len(by_class) - 1} more); keep one of the two"
        )
    if not direct and not by_class:
        raise InputError(
            f"folder:{root} holds no image (files ending in {', '.join(EXTENSIONS)}), directly or "
            f"in class folders; it holds {LeftOut(rest.left_out) or 'nothing'}"
        )
    if direct:
        return Index.of(root, direct, None, (), rest.left_out), rest.times
    labels = np.repeat(np.arange(len(by_class)), [len(paths) for paths in by_class.values()])
    paths = list(itertools.chain.from_iterable(by_class.values()))
    images = Index.of(root, paths, labels.astype(np.int32), tuple(by_class), rest.left_out)
    return images, rest.times


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


def _source(images: Index, train: Index, notes: tuple[str, ...] = ()) -> EncodedSource:
    """A source; of test images with the numbers that their classes have in `train`."""
    numbers = _numbers(images, train)
    understood = Understood(
        images.root, len(images), images.kinds, left_out=images.left_out, notes=notes
    )
    if numbers is not None:
        labels = numbers[images.labels]
        understood = understood.labelled("name of folder", labels, train.class_names)
    return EncodedSource(
        name=f"folder:{images.root}",
        size=len(images),
        read=functools.partial(_read, images, numbers),
        item_name=images.path,
        labelled=numbers is not None,
        class_names=train.class_names if numbers is not None else (),
        read_labels=None if numbers is None else functools.partial(_labels, images, numbers),
        understood=understood,
    )


def _labels(images: Index, numbers: np.ndarray) -> np.ndarray:
    return numbers[images.labels]


def _read(images: Index, numbers: np.ndarray | None, i: int) -> tuple[bytes, int]:
    label = -1 if numbers is None else int(numbers[images.labels[i]])
    return listing.read_file(images.path(i)), label
