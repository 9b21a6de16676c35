"""Boxes as people annotate them, made fit to be trained on, and what was done about them.

n boxes of one image, H height, W width of it
"""

from typing import NamedTuple

import numpy as np

from moco_jax.data.summary import LeftOut

_ROUNDING = 0.5  # pixels past the border that are clipped without a word

SWAPPED = "boxes whose corners are swapped"
PAST = "boxes past the border"
FLAT = "boxes without an area"
OUTSIDE = "boxes outside of the image"
NO_NUMBER = "boxes that are not finite"


class Account(NamedTuple):
    """What became of a set's boxes and of its files: reason -> how many and the first.

    Attributes:
      left_out: what is not used.
      mended: what is used, but not as it was given.
    """

    left_out: LeftOut
    mended: LeftOut


def mend(
    boxes: np.ndarray, height: int, width: int, first: int, account: Account, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Corners in order and within the image; boxes that are none are left out.

    Args:
      boxes: float64 (n, 4), x1 y1 x2 y2 as they are in the file.
      height: H.
      width: W.
      first: number of an image's first pixel in the file. VOC counts from 1, both corners
        belonging to the box: there 1 to W becomes 0 to W. COCO's 0 is the border itself.
      account: where it is counted what was done.
      name: of the image.

    Returns:
      float32 (m, 4), and which boxes they are, int64 (m,).
    """
    finite = np.isfinite(boxes).all(1)
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    area = finite & (low < high).all(1)
    whole = np.concatenate([low - first, high], 1)
    border = np.array([width, height] * 2, np.float64)
    inside = np.clip(whole, 0, border).astype(np.float32)
    kept = area & (inside[:, :2] < inside[:, 2:]).all(1)
    past = (np.abs(whole - inside) > _ROUNDING).any(1)
    swapped = (boxes[:, :2] > boxes[:, 2:]).any(1)
    for counts, reason, which in (
        (account.left_out, NO_NUMBER, ~finite),
        (account.left_out, FLAT, finite & ~area),
        (account.left_out, OUTSIDE, area & ~kept),
        (account.mended, SWAPPED, kept & swapped),
        (account.mended, PAST, kept & past),
    ):
        if which.any():
            counts.note(reason, name, int(which.sum()))
    return inside[kept], np.flatnonzero(kept)
