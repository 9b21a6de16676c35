"""Files of images beside their annotations: sets of them, their size, and their pixels.

N images, H height, W width of one
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_jax.data import decoding, listing
from moco_jax.errors import BadImage, StorageError

MAX_PIXELS = 100_000_000  # of an image whose size is asked for
_HEAD = 1 << 16  # bytes of an image in which its size is to be found, mostly


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split, with what is known of each.

    Attributes:
      name: what logs and errors call the set.
      images: N of them, each with a name.
      class_names: of the classes' numbers.
    """

    name: str
    images: tuple[Any, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Of each image: colour."""
        return 3

    def item_name(self, index: int) -> str:
        """What logs and errors call an image."""
        return self.images[index].name


def read_size(path: str, name: str, max_pixels: int) -> tuple[int, int]:
    """Height and width of an image, from its first bytes where they say it.

    Args:
      path: of its file.
      name: what errors call it.
      max_pixels: more are refused.

    Raises:
      BadImage: it is none.
      OSError: there is no such file.
      StorageError: it cannot be read, again and again.
    """
    with contextlib.suppress(BadImage, OSError):
        return decoding.read_header(listing.read_file(path, _HEAD), max_pixels)[:2]
    return decoding.read_header(listing.read_again(path, name), max_pixels)[:2]


def size_of(path: str) -> tuple[int, int] | None:
    """As `read_size`; None of no image."""
    with contextlib.suppress(BadImage):
        return read_size(path, path, MAX_PIXELS)
    return None


def read_pixels(
    read: Callable[[], bytes], name: str, size: tuple[int, int], max_pixels: int
) -> np.ndarray:
    """An image, uint8 (H, W, 3); EXIF's orientation is ignored, as everywhere here.

    Args:
      read: gives the image's bytes.
      name: what errors call it.
      size: H, W, as its annotation says.
      max_pixels: more are refused.

    Raises:
      BadImage: it cannot be read, or has another size.
      StorageError: the machine is to blame, and remains so.
    """
    try:
        data = read()
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
