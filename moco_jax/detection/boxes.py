"""Boxes: overlap, clipping, and their coding against others.

N, M boxes. A box is (left, top, right, bottom), float32, in pixels of the canvas, whose top left
corner is 0, 0; its width is right - left, without a pixel more.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# detectron2's: offsets of anchors are predicted as they are, those of proposals magnified.
ANCHOR_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
PROPOSAL_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# A side grows to at most this many times, as a logarithm: from 16 pixels to 1000.
SCALE_CLAMP = math.log(1000 / 16)


def area(boxes: jax.Array) -> jax.Array:
    """Areas (...) of boxes (..., 4), in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every pair.

    Args:
      a: (N, 4).
      b: (M, 4).

    Returns:
      (N, M) in [0, 1]; 0 where both are without area.
    """
    a, b = a[:, None], b[None]
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    common = jnp.prod(jnp.maximum(sides, 0), axis=-1)
    union = area(a) + area(b) - common
    return jnp.where(common > 0, common / jnp.where(common > 0, union, 1), 0)


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Cuts boxes (N, 4) at the borders of an image; what lies outside has no area then.

    Args:
      boxes: (N, 4).
      size: (2,) height and width of the image on its canvas, in pixels.
    """
    height, width = size.astype(boxes.dtype)
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height])[None])


def has_area(boxes: jax.Array) -> jax.Array:
    """(...) whether both sides of boxes (..., 4) are longer than 0."""
    return jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)


def encode(boxes: jax.Array, anchors: jax.Array, weights: Sequence[float]) -> jax.Array:
    """Boxes relative to anchors (arXiv:1311.2524, appendix C).

    Args:
      boxes: (..., 4).
      anchors: (..., 4), of the same shape; either may be proposals.
      weights: of the offsets of the center and of the logarithms of the sides.

    Returns:
      (..., 4): center right and down, over the anchor's sides, and the logarithms of the ratios of
      width and height, all times `weights`. A box or an anchor without area is coded as zeros.
    """
    usable = (has_area(boxes) & has_area(anchors))[..., None]
    whole = jnp.array([0, 0, 1, 1], boxes.dtype)
    (center, side), (origin, unit) = (
        _center_and_sides(jnp.where(usable, x, jnp.broadcast_to(whole, x.shape)))
        for x in (boxes, anchors)
    )
    deltas = jnp.concatenate([(center - origin) / unit, jnp.log(side / unit)], axis=-1)
    return jnp.where(usable, deltas * _like(weights, deltas), 0)


def decode(deltas: jax.Array, anchors: jax.Array, weights: Sequence[float]) -> jax.Array:
    """Undoes `encode`; sides grow by no more than SCALE_CLAMP.

    Args:
      deltas: (..., 4) as `encode` gives them.
      anchors: (..., 4), of the same shape.
      weights: as there.

    Returns:
      (..., 4) boxes, which may pass the borders of the image.
    """
    center, side = _center_and_sides(anchors)
    deltas = deltas / _like(weights, deltas)
    center = center + deltas[..., :2] * side
    half = 0.5 * side * jnp.exp(jnp.minimum(deltas[..., 2:], SCALE_CLAMP))
    return jnp.concatenate([center - half, center + half], axis=-1)


def _center_and_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(..., 2) each, right or wide first."""
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _like(weights: Sequence[float], deltas: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.array(weights, deltas.dtype), deltas.shape)
