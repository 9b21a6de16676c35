"""Sources that are arrays in one .npz file: the embedded images, and the user's own.

N number of images, H height, W width, C channels
"""

import difflib
import importlib.resources
import zipfile
from collections.abc import Mapping

import numpy as np

from moco_jax.data.source import ArraySource, Splits, existing
from moco_jax.errors import InputError

KEYS = ("images", "labels", "test_images", "test_labels", "class_names")


def open_embedded(*_: str) -> Splits:
    """The part of Fashion-MNIST that comes with the package: 10,000 and 2,000 images."""
    file = importlib.resources.files("moco_jax.data") / "embedded" / "fashion_mnist.npz"
    with importlib.resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        return _splits("embedded", arrays)


def open_npz(where: str, _: str = "") -> Splits:
    """Opens a .npz file.

    It holds `images`, uint8 (N, H, W) or (N, H, W, C), and where wanted `labels`, integers (N,),
    `test_images`, `test_labels` and `class_names`, strings.

    Raises:
      InputError: for a missing key, a wrong dtype or shape, lengths that differ.
    """
    path = existing(where)
    name = f"npz:{path}"
    if not (path.is_file() and zipfile.is_zipfile(path)):
        raise InputError(f"{name} is not a .npz file, as numpy.savez_compressed writes it")
    with np.load(path, allow_pickle=False) as arrays:
        _check_keys(name, arrays)
        return _splits(name, arrays)


def _check_keys(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses a file without `images`, and one where a key looks misspelled."""
    keys = list(arrays)
    if "images" not in keys:
        near = difflib.get_close_matches("images", keys, 1, 0.4)
        hint = f"; rename {near[0]!r}?" if near else ""
        raise InputError(f"{name} has no array 'images', only {', '.join(keys) or 'none'}{hint}")
    for key in set(keys) - set(KEYS):
        near = difflib.get_close_matches(key, set(KEYS) - set(keys), 1, 0.75)
        if near:
            raise InputError(f"{name} holds {key!r}; did you mean {near[0]!r}?")


def _splits(name: str, arrays: Mapping[str, np.ndarray]) -> Splits:
    """Both parts of an open file."""
    class_names = tuple(map(str, _array(name, arrays, "class_names", ())))
    train, test = (
        _part(part_name, arrays, prefix, class_names)
        for part_name, prefix in ((name, ""), (f"{name} test", "test_"))
    )
    if test is not None and test.channels != train.channels:
        raise InputError(f"{name}: images have {train.channels} channels, test {test.channels}")
    return Splits(train, test)


def _part(
    name: str, arrays: Mapping[str, np.ndarray], prefix: str, class_names: tuple[str, ...]
) -> ArraySource | None:
    """The images and labels whose keys start with `prefix`, checked."""
    images = _array(name, arrays, f"{prefix}images")
    labels = _array(name, arrays, f"{prefix}labels")
    if images is None:
        if labels is not None:
            raise InputError(f"{name} holds {prefix}labels without {prefix}images")
        return None
    if images.dtype != np.uint8:
        raise InputError(f"{name}: {prefix}images are {images.dtype}; expected uint8 (0 to 255)")
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(
            f"{name}: {prefix}images have shape {images.shape}; expected (N, H, W) or "
            "(N, H, W, C), none of them 0"
        )
    if labels is not None:
        _check_labels(f"{name}: {prefix}labels", labels, len(images), class_names)
        labels = labels.astype(np.int32)
    return ArraySource(name, images.reshape(*images.shape[:3], -1), labels, class_names)


def _check_labels(what: str, labels: np.ndarray, count: int, class_names: tuple[str, ...]) -> None:
    """Refuses labels that are no integers from 0, one for each image."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{what} are {labels.dtype}; expected integers")
    if labels.shape != (count,):
        raise InputError(
            f"{what} have shape {labels.shape}; expected ({count},), as many as images"
        )
    if labels.min() < 0:
        raise InputError(f"{what} go down to {labels.min()}; expected numbers from 0")
    if class_names and labels.max() >= len(class_names):
        raise InputError(f"{what} go up to {labels.max()}, but class_names has {len(class_names)}")


def _array(
    name: str, arrays: Mapping[str, np.ndarray], key: str, default: object = None
) -> np.ndarray:
    """`arrays[key]`, or `default` where the file does not have it."""
    if key not in arrays:
        return default
    try:
        return arrays[key]
    except ValueError as error:  # the array holds Python objects, which only a pickle can carry
        raise InputError(f"{name}: {key} is no plain array ({error})") from error
