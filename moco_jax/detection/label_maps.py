"""Label maps: PNG files whose pixels are numbers of classes.

H height, W width of an image
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

from moco_jax.data import decoding, listing
from moco_jax.errors import BadImage, StorageError

IGNORED = 255  # a pixel without a class, or padding
_NONE = -1  # in a code: a number that stands for nothing


class Code:
    """Which class a number in a file stands for, or that it is to be ignored."""

    def __init__(self, classes: Mapping[int, int]):
        """Takes number -> class; IGNORED as either. 255 in a file is always ignored."""
        self._classes = np.full(256, _NONE, np.int16)
        for number, own in {**classes, IGNORED: IGNORED}.items():
            self._classes[number] = own

    @classmethod
    def plain(cls, count: int) -> Self:
        """Numbers that are the classes, 0 to count - 1."""
        return cls({number: number for number in range(count)})

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Classes of numbers uint8, uint8 of the same shape.

        Raises:
          BadImage: a number that stands for nothing.
        """
        found = self._classes[numbers]
        if (found == _NONE).any():
            value = int(numbers[found == _NONE].min())
            known = np.flatnonzero(self._classes[:IGNORED] != _NONE)
            raise BadImage(f"the value {value} in {int((found == _NONE).sum()):,} pixels; expected "
                           f"{known[0]} to {known[-1]}, or {IGNORED}")  # fmt: skip
        return found.astype(np.uint8)


def read_labels(path: str, size: tuple[int, int], code: Code, max_pixels: int) -> np.ndarray:
    """The classes of an image's pixels, uint8 (H, W), IGNORED where there is none.

    Args:
      path: of the label map.
      size: H, W.
      code: of its numbers.
      max_pixels: more are refused.

    Raises:
      BadImage: it cannot be read, is of another size, or holds what is no class.
      StorageError: the machine is to blame, and remains so.
    """
    try:
        numbers = decoding.decode_numbers(listing.read_again(path), max_pixels)
        if numbers.shape != size:
            raise BadImage(f"{numbers.shape[1]} x {numbers.shape[0]} pixels; expected those of its "
                           f"image, {size[1]} x {size[0]}")  # fmt: skip
        return code(numbers)
    except StorageError:
        raise  # not the file's fault
    except (BadImage, OSError) as error:
        raise BadImage(f"label map {path}: {error}") from error
