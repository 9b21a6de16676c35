"""Crop and resize on the device, by two small interpolation matrices per image.

Every function treats one image and is made for `jax.vmap`; images of a batch share their size.
Resizing is bilinear with antialiasing, as PIL and torchvision do it: when it shrinks, the
triangle kernel widens with the scale, and no pixel outside the box contributes.

Shapes: H W image, C channels, S output size. A box is (top, left, height, width) in pixels.
"""

import jax
import jax.numpy as jnp
from jax import Array

from moco_jax.errors import InputError

TRIES = 10


def sample_crop_box(
    key: Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Array:
    """Draws the box of a random resized crop (Inception's, as torchvision samples it).

    Of ten boxes the first that fits is taken; if none fits, the largest central one whose aspect
    ratio lies in `ratio`.

    Args:
        key: random key.
        height: of the image, pixels.
        width: of the image, pixels.
        area: range of the share of the image's area, uniform.
        ratio: range of width / height, log-uniform.

    Returns:
        int32 (4,), the box.
    """
    boxes = sample_boxes(key, height, width, area, ratio)
    _, _, heights, widths = boxes
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    return first_box(boxes, fits, _largest_box(height, width, ratio))


def sample_boxes(
    key: Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Array:
    """Draws ten boxes, some of which may not fit: float32 (4, 10). See `sample_crop_box`."""
    draws = jax.random.uniform(key, (4 * TRIES,))
    area_draw, ratio_draw, top_draw, left_draw = draws.reshape(4, TRIES)
    target = height * width * (area[0] + (area[1] - area[0]) * area_draw)
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** ratio_draw
    heights = jnp.round(jnp.sqrt(target / aspect))
    widths = jnp.round(jnp.sqrt(target * aspect))
    tops = jnp.floor(top_draw * (height - heights + 1))
    lefts = jnp.floor(left_draw * (width - widths + 1))
    return jnp.stack([tops, lefts, heights, widths])


def first_box(boxes: Array, fits: Array, otherwise: Array) -> Array:
    """The first of boxes (4, 10) that fits, or another: int32 (4,).

    Args:
      boxes: float32 (4, 10).
      fits: bool (10,).
      otherwise: int32 (4,).
    """
    first = boxes[:, jnp.argmax(fits)].astype(jnp.int32)
    return jnp.where(jnp.any(fits), first, otherwise)


def _largest_box(height: int, width: int, ratio: tuple[float, float]) -> Array:
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return _central(height, width, box_height, box_width)


def center_box(height: int, width: int, crop_share: float) -> Array:
    """The central square whose side is `crop_share` of the image's short side.

    Cropping it and resizing to 224 with a share of 0.875 is the usual evaluation: the short side
    to 256, then the central 224 pixels.

    Args:
      height: of the image, pixels.
      width: of the image.
      crop_share: of the short side, in (0, 1].

    Returns:
        int32 (4,), the box.

    Raises:
        InputError: if `crop_share` is not in (0, 1].
    """
    if not 0 < crop_share <= 1:
        raise InputError(f"crop_share={crop_share} is not in (0, 1]")
    side = max(1, round(crop_share * min(height, width)))
    return _central(height, width, side, side)


def _central(height: int, width: int, box_height: int, box_width: int) -> Array:
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return jnp.array([top, left, box_height, box_width], jnp.int32)


def crop_resize(image: Array, box: Array, size: int) -> Array:
    """Cuts `box` out of an image and resizes it to a square.

    Args:
        image: float32 (H, W, C).
        box: int32 or float32 (4,), inside the image.
        size: S, pixels.

    Returns:
        float32 (S, S, C).
    """
    top, left, height, width = box.astype(jnp.float32)
    rows = _interpolation(image.shape[0], top, height, size)
    columns = _interpolation(image.shape[1], left, width, size)
    # HIGHEST: by default TPUs multiply float32 matrices in bfloat16.
    image = jnp.einsum("sh,hwc->swc", rows, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("tw,swc->stc", columns, image, precision=jax.lax.Precision.HIGHEST)


def _interpolation(pixels: int, start: Array, length: Array, size: int) -> Array:
    """Weights (size, pixels) that resample `length` pixels from `start` on to `size`."""
    scale = length / size
    wanted = scale * (jnp.arange(size, dtype=jnp.float32) + 0.5)
    given = jnp.arange(pixels, dtype=jnp.float32) + 0.5 - start
    distance = jnp.abs(wanted[:, None] - given[None, :]) / jnp.maximum(scale, 1.0)
    inside = (given > 0) & (given < length)
    weights = jnp.where(inside[None, :], jnp.maximum(1.0 - distance, 0.0), 0.0)
    return weights / jnp.sum(weights, 1, keepdims=True)
