"""Rotation, shear and translation on the device, by moving whole rows and columns.

A TPU reads pixel by pixel slowly. Moving each row by a distance of its own needs no such reading:
one static move for each binary digit of the distance, made or not made. A shear is one such pass,
a rotation three (A. Paeth, A Fast Algorithm for General Raster Rotation, 1986).

Every function treats one image and is made for `jax.vmap`.

Shapes: H W image, C channels.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

MAX_ANGLE = math.radians(30)
MAX_SHIFT = 0.45  # share of the longer side; holds for a shear of 0.3 as well


class Warp(NamedTuple):
    """Where an output pixel comes from: at most one of the three; 0 is none. Each float32 ().

    Attributes:
      angle: of a rotation around the centre, radians counterclockwise, in +-`MAX_ANGLE`.
      shear: float32 (2,), columns that a row moves by for each row down; and the reverse.
      shift: float32 (2,), pixels to the left and up, at most `MAX_SHIFT` of the longer side.
    """

    angle: Array
    shear: Array
    shift: Array


def warp(levels: Array, how: Warp, fill: Array) -> Array:
    """Warps an image as PIL does, bicubic; without angle, shear and shift exactly the identity.

    A rotation differs from PIL's by its interpolation, along three lines instead of one square.

    Args:
        levels: float32 (H, W, C), whole numbers from 0 to 255.
        how: the warp.
        fill: float32 (C,), of the pixels that come from outside.

    Returns:
        float32 (H, W, C), whole numbers from 0 to 255.
    """
    height, width = levels.shape[:2]
    slope, lift = -jnp.tan(how.angle / 2), jnp.sin(how.angle)
    reach = math.ceil(MAX_SHIFT * max(height, width))
    # What the first pass of a rotation moves out of the image, the last one moves back.
    margin = math.ceil(math.tan(MAX_ANGLE / 2) * height / 2) + 2

    def turn(y: Array) -> Array:
        return slope * (y - height / 2)

    def across(y: Array) -> Array:
        return turn(y) + how.shear[0] * y + how.shift[0]

    def down(x: Array) -> Array:
        return lift * (x - width / 2) + how.shear[1] * x + how.shift[1]

    rows, columns = _centres(height), _centres(width + 2 * margin) - margin
    # PIL cuts fractions off, once; before the last pass of a rotation they are rounded.
    bias = jnp.where(how.angle == 0, 0.0, 0.5)
    x = jnp.pad(levels.astype(jnp.uint8), ((0, 0), (margin, margin), (0, 0)), mode="edge")
    x = shift_rows(x, across(rows), reach, bias)
    x = shift_rows(x.swapaxes(0, 1), down(columns), reach, bias).swapaxes(0, 1)
    x = shift_rows(x, turn(rows), margin, jnp.float32(0.0))[:, margin:-margin]

    from_x = _centres(width)[None] + turn(rows)[:, None]
    from_y = rows[:, None] + down(from_x)
    from_x = from_x + across(from_y)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    return jnp.where(inside[..., None], x.astype(jnp.float32), fill[None, None])


def shift_rows(image: Array, shift: Array, reach: int, bias: Array) -> Array:
    """Moves each row to the left by its own distance, the pixels at the ends repeated.

    Args:
        image: uint8 (H, W, C): a quarter of the memory traffic of float32.
        shift: float32 (H,), pixels; between whole ones the cubic of PIL's transforms is taken.
        reach: the longest that `shift` may be, pixels.
        bias: float32 (), added to the result before its fraction is cut off: 0.5 rounds.

    Returns:
        uint8 (H, W, C).
    """
    whole = jnp.floor(shift)
    steps = (whole + reach).astype(jnp.int32)  # from 0 on
    digits = (2 * reach).bit_length()
    padding = reach + 1, 2**digits - reach + 1  # and room for the four pixels of the cubic
    x = jnp.pad(image, ((0, 0), padding, (0, 0)), mode="edge")
    for digit in reversed(range(digits)):
        step = 2**digit
        moved = ((steps >> digit) & 1 == 1)[:, None, None]
        x = jnp.where(moved, x[:, step:], x[:, :-step])
    taps = (x[:, i : i + image.shape[1]].astype(jnp.float32) for i in range(4))
    y = _cubic(*taps, (shift - whole)[:, None, None])
    return jnp.clip(y + bias, 0.0, 255.0).astype(jnp.uint8)


def _cubic(a: Array, b: Array, c: Array, d: Array, t: Array) -> Array:
    """PIL's cubic through b and c at t in [0, 1), by differences: exact where all are equal."""
    return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a + d - c)))


def _centres(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.float32) + 0.5
