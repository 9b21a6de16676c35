"""Sources that are arrays in one .npz file: the embedded images, and the user's own.

N number of images, H height, W width, C channels
"""

import difflib
import functools
import importlib.resources
import math
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from moco_jax import places
from moco_jax.data.copies import local_copy
from moco_jax.data.labels import class_numbers
from moco_jax.data.source import ArraySource, Opening, Splits, existing
from moco_jax.data.summary import Understood
from moco_jax.errors import InputError

KEYS = (*("images", "labels", "names", "test_images", "test_labels", "test_names", "class_names"),)
# What others call the same arrays: Keras, MedMNIST.
_ALIASES = {
    "x_train": "images", "y_train": "labels", "x_test": "test_images", "y_test": "test_labels",
    "train_images": "images", "train_labels": "labels",
}  # fmt: skip


def open_embedded(*_: str | Opening) -> Splits:
    """The part of Fashion-MNIST that comes with the package: 10,000 and 2,000 images."""
    file = importlib.resources.files("moco_jax.data") / "embedded" / "fashion_mnist.npz"
    with importlib.resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        return _splits("embedded", arrays)


def open_npz(where: str, opening: Opening = Opening()) -> Splits:
    """Opens a .npz file, of which a copy is made where it is in a bucket.

    It holds `images`, uint8 (N, H, W) or (N, H, W, C), and where wanted `labels`, integers or
    strings (N,), `names` of the images, the same with `test_` before, and `class_names`.

    Raises:
      InputError: for a missing key, a wrong dtype or shape, lengths that differ, a damaged file.
    """
    remote = places.scheme(where)
    path = local_copy(f"npz:{where}", where, opening.cache_dir) if remote else existing(where)
    name = f"npz:{where if remote else path}"
    if not (path.is_file() and zipfile.is_zipfile(path)):
        raise InputError(f"{name} is not a .npz file, as numpy.savez_compressed writes it")
    arrays = _read_all(name, path)
    _check_keys(name, arrays)
    return _splits(name, arrays)


def _read_all(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are used, and the keys of all; InputError where one is damaged."""
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            keys = list(arrays)
            for key in set(keys) & set(KEYS):
                _check_size(name, key, archive)
            return {key: arrays[key] if key in KEYS else np.empty(0) for key in keys}
    except InputError:
        raise
    except Exception as error:  # of whatever kind, according to what was hit
        if isinstance(error, OSError) and error.errno:
            raise  # the system's
        raise InputError(f"{name} is damaged: {error or type(error).__name__}") from error


def _check_size(name: str, key: str, archive: zipfile.ZipFile) -> None:
    """Refuses an array whose header promises other than what the archive has: it is not made."""
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = "read_array_header_1_0" if first else "read_array_header_2_0"
        shape, _, dtype = getattr(np.lib.format, read)(file)
        there = info.file_size - file.tell()
    if dtype.hasobject:
        raise InputError(f"{name}: {key} is no plain array: it holds Python objects")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != there:
        raise InputError(
            f"{name} is damaged: the header of {key!r} promises {wanted:,} bytes, {shape} of "
            f"{dtype}, and there are {there:,}"
        )


def _check_keys(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses a file without `images`, and one where a key looks misspelled."""
    keys = list(arrays)
    if "images" not in keys:
        near = difflib.get_close_matches("images", keys, 1, 0.4)
        renamed = {key: _ALIASES[key] for key in keys if key in _ALIASES}
        renamed = renamed or dict.fromkeys(near, "images")
        hint = ", ".join(f"{key!r} to {new!r}" for key, new in renamed.items())
        hint = f"; rename {hint}?" if hint else ""
        raise InputError(f"{name} has no array 'images', only {', '.join(keys) or 'none'}{hint}")
    for key in set(keys) - set(KEYS):
        near = difflib.get_close_matches(key, set(KEYS) - set(keys), 1, 0.75)
        if near:
            raise InputError(f"{name} holds {key!r}; did you mean {near[0]!r}?")


def _splits(name: str, arrays: Mapping[str, np.ndarray]) -> Splits:
    """Both parts of an open file."""
    class_names = tuple(map(str, arrays.get("class_names", ())))
    train = _part(name, arrays, "", class_names)
    test = _part(f"{name} test", arrays, "test_", train.class_names)
    if test is not None and test.channels != train.channels:
        raise InputError(f"{name}: images have {train.channels} channels, test {test.channels}")
    return Splits(train, test)


def _part(
    name: str, arrays: Mapping[str, np.ndarray], prefix: str, class_names: tuple[str, ...]
) -> ArraySource | None:
    """The images and labels whose keys start with `prefix`, checked."""
    images, labels, names = (arrays.get(prefix + key) for key in ("images", "labels", "names"))
    if images is None:
        if labels is not None:
            raise InputError(f"{name} holds {prefix}labels without {prefix}images")
        return None
    _check_images(f"{name}: {prefix}images", images)
    for what, column in (("labels", labels), ("names", names)):
        if column is not None and column.shape[:1] != (len(images),):
            raise InputError(
                f"{name}: {prefix}{what} have shape {column.shape}; expected ({len(images)},), as "
                "many as images"
            )
    form = " x ".join(map(str, images.shape[1:]))
    understood = Understood(f"array {prefix}images", len(images), {form: len(images)})
    if labels is not None:
        labels, class_names = class_numbers(f"{name}: {prefix}labels", labels, class_names)
        understood = understood.labelled(f"array {prefix}labels", labels, class_names)
        labels = labels if (labels >= 0).any() else None
    name_of = None if names is None else functools.partial(_name, names)
    images = images.reshape(*images.shape[:3], -1)
    return ArraySource(name, images, labels, class_names, name_of=name_of, understood=understood)


def _check_images(what: str, images: np.ndarray) -> None:
    """Refuses what are no images of pixels from 0 to 255, channels last."""
    if images.dtype != np.uint8:
        raise InputError(f"{what} are {images.dtype}; expected uint8 (0 to 255){_scaled(images)}")
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape:
        raise InputError(
            f"{what} have shape {shape}; expected (N, H, W) or (N, H, W, C), none of them 0"
        )
    if images.ndim == 4 and shape[1] != shape[2] and (
        (shape[1] in (1, 3) and shape[3] > 4) or shape[1] <= 16 < shape[3]
    ):  # fmt: skip
        turned = (shape[0], *shape[2:], shape[1])
        raise InputError(
            f"{what} have shape {shape}, which looks like (N, C, H, W); expected (N, H, W, C), "
            f"{turned}: images.transpose(0, 2, 3, 1)"
        )


def _scaled(images: np.ndarray) -> str:
    """How to make pixels of another type uint8, for the message."""
    if images.dtype.kind not in "fu" or not images.size:
        return ""
    top = float(images.max())
    white = 1.0 if top <= 1 else 2.0 ** math.ceil(math.log2(top + 1)) - 1
    return f"; theirs go up to {top:g}: (images / {white:g} * 255).round().astype(numpy.uint8)"


def _name(names: np.ndarray, i: int) -> str:
    return str(names[i])
