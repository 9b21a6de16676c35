"""Anchors of the maps that proposals are looked for on.

The conventions are detectron2's: an anchor is centered on the top left corner of its cell; its
sides are not rounded (torchvision rounds their halves); a ratio is height over width; of a cell
the sizes come first, then the ratios.
"""

import math
from collections.abc import Sequence

import numpy as np

from moco_jax.errors import InputError

RATIOS = (0.5, 1.0, 2.0)
C4_SIZES = ((32, 64, 128, 256, 512),)  # of one map, in pixels of the image
FPN_SIZES = ((32,), (64,), (128,), (256,), (512,))  # P2 to P6


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float] = RATIOS) -> np.ndarray:
    """Anchors around 0, 0.

    Args:
      sizes: the roots of their areas, in pixels.
      ratios: height over width.

    Returns:
      (sizes times ratios, 4) float32.

    Raises:
      InputError: a size or a ratio is not a positive number.
    """
    for what, values in (("size", sizes), ("ratio", ratios)):
        wrong = [v for v in values if not 0 < v < math.inf]
        if wrong or not values:
            raise InputError(f"anchors: {what} {wrong or 'of none'}: positive numbers are needed")
    widths = [size / math.sqrt(ratio) for size in sizes for ratio in ratios]
    heights = [size * math.sqrt(ratio) for size in sizes for ratio in ratios]
    corner = np.stack([widths, heights], axis=1) / 2
    return np.concatenate([-corner, corner], axis=1).astype(np.float32)


def map_anchors(shape: tuple[int, int], stride: int, cell: np.ndarray) -> np.ndarray:
    """The anchors of a map.

    Args:
      shape: rows and columns of the map.
      stride: pixels of the image from cell to cell.
      cell: (A, 4) as `cell_anchors` gives them.

    Returns:
      (rows * columns * A, 4) float32; row by row, of a cell all A, as a head's channels lie.
    """
    rows, columns = (stride * np.arange(n, dtype=np.float32) for n in shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    corners = np.stack([x, y, x, y], axis=-1)
    return (corners[:, :, None] + cell).reshape(-1, 4)


def pyramid_anchors(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], sizes: Sequence[Sequence[float]]
) -> list[np.ndarray]:
    """The anchors of each map, see `map_anchors`.

    Args:
      shapes: rows and columns of each map.
      strides: of each map.
      sizes: of each map's anchors.

    Raises:
      InputError: the three are not of one length.
    """
    if not len(shapes) == len(strides) == len(sizes):
        raise InputError(
            f"anchors: {len(shapes)} maps, {len(strides)} strides and sizes of {len(sizes)} maps"
        )
    return [
        map_anchors(shape, stride, cell_anchors(own))
        for shape, stride, own in zip(shapes, strides, sizes)
    ]
