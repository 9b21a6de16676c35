"""Files of images beside their annotations: their size from the first bytes, and their pixels.

H height, W width of an image
"""

import contextlib

import numpy as np

from moco_jax.data import decoding, listing
from moco_jax.errors import BadImage, StorageError

MAX_PIXELS = 100_000_000  # of an image whose size is asked for
_HEAD = 1 << 16  # bytes of an image in which its size is to be found, mostly


def size_of(path: str) -> tuple[int, int] | None:
    """Height and width of an image, from its first bytes where they say it; None of no image.

    Raises:
      OSError: there is no such file.
      StorageError: it cannot be read, again and again.
    """
    with contextlib.suppress(BadImage, OSError), open(path, "rb") as file:
        return decoding.read_header(file.read(_HEAD), MAX_PIXELS)[:2]
    data = listing.read_again(path)
    with contextlib.suppress(BadImage):
        return decoding.read_header(data, MAX_PIXELS)[:2]
    return None


def read_pixels(path: str, name: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """An image, uint8 (H, W, 3); EXIF's orientation is ignored, as everywhere here.

    Args:
      path: of its file.
      name: what errors call it.
      size: H, W, as its annotation says.
      max_pixels: more are refused.

    Raises:
      BadImage: it cannot be read, or has another size.
      StorageError: the machine is to blame, and remains so.
    """
    try:
        data = listing.read_again(path, name)
        decoding.read_header(data, max_pixels)
        image = decoding.decode(data)
    except StorageError:
        raise  # not the image's fault
    except (BadImage, OSError) as error:
        raise BadImage(f"{name}: {error}") from error
    if image.shape[:2] != size:
        raise BadImage(
            f"{name} has {image.shape[1]} x {image.shape[0]} pixels; its annotation says "
            f"{size[1]} x {size[0]}"
        )
    return image
