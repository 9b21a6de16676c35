"""ROIAlign (arXiv:1703.06870) as two products per box, and the pyramid's map for each box.

B images, R boxes of an image, H and W rows and columns of a map, C channels, P cells of a side.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from moco_jax.detection import boxes as geometry
from moco_jax.errors import InputError
from moco_jax.ops.operations import INTERPOLATION

SAMPLES = 2  # of a cell, down and across
# Boxes at once: what lies between the products is (boxes, P, W, C), 0.15 GB of 64 boxes, 7 cells
# and 256 channels on a map 334 wide.
CHUNK = 64
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # arXiv:1612.03144, eq. 1


def roi_align(features: jax.Array, boxes: jax.Array, stride: int, cells: int) -> jax.Array:
    """Crops boxes from the map of each image, with the half pixel ("aligned") and 2 x 2 samples.

    Args:
      features: (B, H, W, C), of any floating type.
      boxes: (B, R, 4) in pixels of the image. They have no gradient.
      stride: pixels of the image from cell to cell of the map.
      cells: P.

    Returns:
      (B, R, P, P, C) of the type of `features`. What lies a pixel or more past the map counts as
      zero.
    """
    return pyramid_align([features], boxes, [stride], cells)


def pyramid_align(
    maps: Sequence[jax.Array], boxes: jax.Array, strides: Sequence[int], cells: int
) -> jax.Array:
    """`roi_align` on the map that fits each box by its area (arXiv:1612.03144, eq. 1).

    All boxes are looked for on all maps, with weights of zero where they do not belong: shapes
    are static, and there is no gather.

    Args:
      maps: (B, H, W, C) each, from fine to coarse.
      boxes: (B, R, 4) in pixels of the image. They have no gradient.
      strides: of the maps, powers of two, each twice the one before.
      cells: P.

    Returns:
      (B, R, P, P, C).

    Raises:
      InputError: strides that are not of this kind.
    """
    wanted = [2 ** (strides[0].bit_length() - 1 + i) for i in range(len(maps))]
    if list(strides) != wanted:
        raise InputError(f"strides {list(strides)} of {len(maps)} maps: {wanted} would do")
    boxes = jax.lax.stop_gradient(boxes)
    return jax.vmap(partial(_of_image, strides=tuple(strides), cells=cells))(tuple(maps), boxes)


def level(boxes: jax.Array, coarsest: int, finest: int) -> jax.Array:
    """The level of the pyramid for each box: 4 at an area of 224 x 224, one less at a quarter.

    Args:
      boxes: (..., 4).
      coarsest: the highest level, log2 of its stride.
      finest: the lowest.

    Returns:
      (...) int32.
    """
    side = jnp.sqrt(jnp.maximum(geometry.area(boxes), 0))
    raw = jnp.floor(CANONICAL_LEVEL + jnp.log2(side / CANONICAL_SIDE + 1e-8))
    return jnp.clip(raw, finest, coarsest).astype(jnp.int32)


def _of_image(
    maps: tuple[jax.Array, ...], boxes: jax.Array, strides: tuple[int, ...], cells: int
) -> jax.Array:
    """(R, P, P, C) of maps (H, W, C)."""
    finest = strides[0].bit_length() - 1

    def crop(box: jax.Array) -> jax.Array:
        own = level(box, finest + len(maps) - 1, finest)
        return sum(
            _products(features, box / stride, own == finest + i, cells)
            for i, (features, stride) in enumerate(zip(maps, strides))
        )

    return jax.lax.map(crop, boxes, batch_size=CHUNK)


def _products(features: jax.Array, box: jax.Array, here: jax.Array, cells: int) -> jax.Array:
    """(P, P, C) of a map (H, W, C); zeros unless the box belongs here. Box in cells of the map."""
    rows, columns, _ = features.shape
    down = jnp.where(here, interpolation(box[1], box[3], cells, rows), 0)
    across = interpolation(box[0], box[2], cells, columns)
    # float32 maps in float32 on every device; it changes nothing for bfloat16.
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    with jax.named_scope(INTERPOLATION):
        partly = product("ph,hwc->pwc", down.astype(features.dtype), features)
        return product("pwc,qw->pqc", partly, across.astype(features.dtype))


def interpolation(start: jax.Array, end: jax.Array, cells: int, length: int) -> jax.Array:
    """The weights that pool a line into the cells of an interval.

    Each cell is the mean of SAMPLES points of the line between its values, which lie in the middle
    of their pixels. Points up to a pixel past an end have the value of the end, others zero.

    Args:
      start: scalar, in pixels of the line.
      end: scalar.
      cells: P.
      length: L, of the line.

    Returns:
      (P, L) float32.
    """
    points = (jnp.arange(cells * SAMPLES, dtype=jnp.float32) + 0.5) / (cells * SAMPLES)
    points = start + (end - start) * points - 0.5
    inside = (points >= -1) & (points <= length)
    nearest = jnp.clip(points, 0, length - 1)
    distance = jnp.abs(nearest[:, None] - jnp.arange(length, dtype=jnp.float32)[None])
    weights = jnp.where(inside[:, None], jnp.maximum(1 - distance, 0), 0)
    return weights.reshape(cells, SAMPLES, length).mean(1)
