"""Which folder is which split: the names that people give them, and how deep they lie."""

import itertools
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from moco_jax.data import listing
from moco_jax.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# The usual names of each split, the usual one first; also with words such as "set" about them.
NAMES = {
    TRAIN: ("train", "training", "trn"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing", "tst"),
}
_DECORATION = {"set", "seg", "data", "dataset", "images", "image", "img", "imgs", "split", "folder"}
# What else says that a folder is a part of a data set rather than a class of it.
_PART = re.compile(
    r"train|valid|test|eval|split|fold|hold_?out|unlabel|query|gallery|(^|[^a-z])(val|dev|trn)"
)


class Layout(NamedTuple):
    """Where the splits of a folder lie.

    Attributes:
      train: folder of the training images.
      test: folder of the test images, or None.
      notes: what was decided on the way, to be said.
    """

    train: str
    test: str | None
    notes: tuple[str, ...] = ()


def role(name: str) -> str | None:
    """The split that a folder, or a split of a library, is by its name; None where it says none.

    Case, digits, and words such as "set" or "seg" do not matter: 'Training_Set', 'seg_test',
    'val2017'.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    words = [word for word in words if word not in _DECORATION] or words
    word = words[0].removesuffix("set") if len(words) == 1 else ""
    return next((role for role, known in NAMES.items() if word in known), None)


def pick(names: Iterable[str]) -> dict[str, str]:
    """Of names, the one for each split that some are for: the nearest to the usual name.

    Raises:
      InputError: several names are as near.
    """
    found = {}
    for name in sorted(names, key=_distance):
        split = role(name)
        if split in found and _distance(found[split]) == _distance(name):
            raise InputError(f"both {found[split]!r} and {name!r} look like the {split} split")
        if split:
            found.setdefault(split, name)
    return found


def _distance(name: str) -> tuple[int, int]:
    """How far a name is from the usual one of its split: by its order, and by its decoration."""
    known = [word for words in NAMES.values() for word in words]
    plain = name.lower()
    return (0, known.index(plain)) if plain in known else (1, 0)


def parts_named(names: Iterable[str]) -> list[str]:
    """Those of some class names that look like parts of a data set."""
    return [name for name in names if role(name) or _PART.search(name.lower())]


def find(root: pathlib.Path) -> Layout:
    """Finds the splits in a folder, or in the only folder of it that holds images.

    Raises:
      InputError: folders that look like splits, and no training split among them; or one beside
        folders that look like classes.
    """
    notes, here = [], str(root)
    names = listing.subfolders(here)
    while not pick(names) and (only := _only_folder(here, names)):
        here, names = _enter(here, only, notes)
    if not parts_named(names):
        return Layout(here, None, tuple(notes))
    splits = pick(names)
    folders = [name for name in names if role(name) or _holds(here, name)]
    _check(here, folders, splits)
    if TRAIN not in splits:
        return Layout(here, None, tuple(notes))
    train = _down(os.path.join(here, splits[TRAIN]), notes)
    chosen = splits.get(VALIDATION) or splits.get(TEST)
    classes = listing.subfolders(train)
    test = _down(os.path.join(here, chosen), notes, classes) if chosen else None
    unused = [name for name in folders if name not in (splits[TRAIN], chosen)]
    if unused:
        notes.append(f"not {', '.join(map(repr, unused[:5]))} of {here}")
    return Layout(train, test, tuple(notes))


def _check(here: str, folders: Sequence[str], splits: dict[str, str]) -> None:
    """Refuses folders of which it is not clear whether they are splits or classes."""
    parts = parts_named(folders)
    others = [name for name in folders if name not in parts]
    seen = ", ".join(map(repr, folders[:8]))
    if TRAIN in splits:
        if others and len(splits) == 1:
            name = splits[TRAIN]
            raise InputError(
                f"folder:{here} holds {name!r} beside {others[0]!r} and {len(others) - 1} more "
                f"folders with images: splits or classes? folder:{os.path.join(here, name)} trains "
                f"on that one alone; rename it where {name!r} is a class"
            )
        return
    if splits or (parts and not others):
        raise InputError(
            f"folder:{here} holds folders that look like splits but no 'train' beside them "
            f"({seen}); name the training folder 'train' and the test folder 'val', or one of them "
            f"as the source: folder:{os.path.join(here, folders[0])}"
        )


def _holds(root: str, name: str) -> bool:
    return listing.holds_image(os.path.join(root, name))


def _only_folder(here: str, names: Iterable[str]) -> str | None:
    """The one folder here with images, where there are none beside it and only folders in it."""
    found = list(itertools.islice((name for name in names if _holds(here, name)), 2))
    if len(found) != 1:
        return None
    beside = (here, os.path.join(here, found[0]))
    return None if any(listing.holds_image(f, deep=False) for f in beside) else found[0]


def _down(split: str, notes: list[str], classes: Collection[str] = ()) -> str:
    """The folder with the classes of a split: itself, or the only one below, such as its like."""
    names = listing.subfolders(split)
    while (only := _only_folder(split, names)) and only not in classes:
        split, names = _enter(split, only, notes)
    return split


def _enter(here: str, only: str, notes: list[str]) -> tuple[str, list[str]]:
    """Goes down into a folder and says so; the folder, and the names of those in it."""
    notes.append(f"{only!r}, the only folder with images in {here}")
    below = os.path.join(here, only)
    return below, listing.subfolders(below)
