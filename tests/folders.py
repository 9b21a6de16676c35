"""Folders of small images, and what a source makes of them."""

import pathlib

import numpy as np
from PIL import Image

from moco_jax.data import decoding

_KINDS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".pgm": "PPM",
}


def save_image(path, level=0, size=(6, 8)):
    """One image of a level, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = _KINDS.get(path.suffix.lower(), path.suffix[1:].upper())
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path, kind)


def make_folder(root, *names):
    """Images of levels 0, 1, 2 ...; returns the source's name."""
    for level, name in enumerate(names):
        save_image(root / name, level)
    return f"folder:{root}"


def levels(source):
    return [int(decoding.decode(source.read(i)[0])[0, 0, 0]) for i in range(len(source))]


def labels(source):
    return [source.read(i)[1] for i in range(len(source))]


def names(source):
    return [pathlib.Path(source.item_name(i)).name for i in range(len(source))]
