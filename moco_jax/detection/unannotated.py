"""Images without annotations, in the form that evaluation takes: a folder, for prediction.

N images
"""

import logging
import os
import pathlib

import numpy as np

from moco_jax import config, places
from moco_jax.data import listing
from moco_jax.data.formats import EXTENSIONS
from moco_jax.data.source import existing
from moco_jax.detection.annotated import Annotated, AnnotatedSet
from moco_jax.detection.image_files import read_size
from moco_jax.errors import BadImage, InputError, StorageError

log = logging.getLogger(__name__)

UNREADABLE = "cannot be read"  # what `left_out` calls such images


def open_unannotated(spec: str, max_pixels: int) -> AnnotatedSet:
    """The images of a folder at any depth, sorted by name; `number` is their place, from 1.

    What is no image is left out and counted, an image that cannot be read is named as well.

    Args:
      spec: `folder:PATH`.
      max_pixels: of an image; one of more cannot be read.

    Raises:
      InputError: another form, or a folder without an image that can be read.
      MissingError: there is no such folder.
      StorageError: the machine cannot read it.
    """
    kind, _, where = spec.partition(":")
    config.choose("--data", kind, ("folder",))
    if not where.strip():
        raise InputError(f"--data={spec}: expected folder:PATH")
    root = existing(str(places.local("--data", where)))
    if not root.is_dir():
        raise InputError(f"--data={spec} is a file; expected a folder of images")
    found = listing.walk(str(root), "")
    readable, left_out = [], found.left_out
    for name in found.images:
        if (image := _image(root, name, len(readable) + 1, max_pixels)) is None:
            left_out.note(UNREADABLE, name)
        else:
            readable.append(image)
    if not readable:
        raise InputError(
            f"--data={spec} holds no image that can be read (files ending in "
            f"{', '.join(EXTENSIONS)}); it holds {left_out or 'nothing'}"
        )
    log.info("Data: %s: %d images%s", spec, len(readable),
             f"; left out: {left_out}" if left_out else "")  # fmt: skip
    return AnnotatedSet(spec, tuple(readable), ())


def _image(root: pathlib.Path, name: str, number: int, max_pixels: int) -> Annotated | None:
    path = os.path.join(root, name)
    try:
        height, width = read_size(path, name, max_pixels)
    except StorageError:
        raise
    except (BadImage, OSError) as error:
        log.warning("left out an image that cannot be read: %s: %s", name, error)
        return None
    none = np.zeros(0, bool)
    return Annotated(
        path=path, name=name, number=number, height=height, width=width,
        boxes=np.zeros((0, 4), np.float32), classes=np.zeros(0, np.int32), difficult=none,
        crowd=none, ids=np.zeros(0, np.int64), shapes=(),
        keypoints=np.zeros((0, 0, 3), np.float32),
    )  # fmt: skip
