"""Labels as people write them (numbers, names, None), made numbers of classes.

N number of images
"""

import difflib
from collections.abc import Sequence

import numpy as np

from moco_jax.errors import InputError

# Numbers above this, and above that of the images, are no numbers of classes but of something else.
MOST_CLASSES = 100_000


def class_numbers(
    what: str, values: np.ndarray, names: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of classes, and the classes' names.

    Text is numbered by `names`, or else by its own sorted values; numbers stay as they are.

    Args:
      what: what errors call the labels.
      values: integers or strings (N,) or (N, 1); -1, "" and None stand for no label.
      names: of the classes, where they are known: those of the training split.

    Returns:
      int32 (N,), -1 where there is no label; and names, () where numbers have none.

    Raises:
      InputError: they are neither, or no numbers of classes, or names that `names` does not have.
    """
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{what} have shape {values.shape}; expected one for each image"
                         f"{_hint(values)}")  # fmt: skip
    if values.dtype == object:
        values = _without_none(what, values)
    if values.dtype.kind in "US":
        return _by_name(what, values.astype(np.str_), tuple(names))
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} are {values.dtype}; expected integers or strings")
    _check_range(what, values, names)
    return values.astype(np.int32), tuple(names)


def _without_none(what: str, values: np.ndarray) -> np.ndarray:
    """Values of one type, None replaced by what stands for no label."""
    kinds = {type(value) for value in values.tolist()} - {type(None)}
    if len(kinds) > 1 or not kinds <= {int, str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"{what} are {names}; expected integers or strings")
    nothing = "" if str in kinds else -1
    return np.array([nothing if value is None else value for value in values.tolist()])


def _by_name(
    what: str, values: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    found = np.unique(values[values != ""]).tolist()
    known = names or tuple(found)
    if odd := sorted(set(found) - set(known)):
        near = difflib.get_close_matches(odd[0], known, 1, 0.0)[0]
        raise InputError(f"{what} hold {odd[0]!r}, which is not among the {len(known)} classes "
                         f"of training; the nearest there is {near!r}")  # fmt: skip
    number = {name: i for i, name in enumerate(known)} | {"": -1}
    return np.array([number[name] for name in values.tolist()], np.int32), known


def _check_range(what: str, values: np.ndarray, names: Sequence[str]) -> None:
    if not len(values):
        return
    low, high = int(values.min()), int(values.max())
    if low < -1:
        raise InputError(f"{what} go down to {low}; expected numbers from 0, or -1 for none")
    if names and high >= len(names):
        raise InputError(f"{what} go up to {high}, but there are {len(names)} class names")
    if high >= max(MOST_CLASSES, len(values)):
        raise InputError(
            f"{what} go up to {high}; expected numbers of classes, from 0 and below "
            f"{MOST_CLASSES:,} or the number of images. numpy.unique(labels, return_inverse=True) "
            "numbers others"
        )


def _hint(values: np.ndarray) -> str:
    return "; of one column for each class: labels.argmax(1)" if values.ndim == 2 else ""
