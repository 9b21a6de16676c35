"""Random erasing on the device (arXiv:1708.04896), with DeiT's settings by default.

Every function treats one image and is made for `jax.vmap`.

Shapes: H W image, C channels. A box is (top, left, height, width) in pixels.
"""

import jax
import jax.numpy as jnp
from jax import Array

from moco_jax.data.device_crop import first_box, sample_boxes
from moco_jax.ops.mix import box_mask


def sample_erase_box(
    key: Array,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    p: float,
) -> Array:
    """Draws what to erase: the first of ten boxes that is lower and narrower than the image.

    Args:
        key: random key.
        height: of the image, pixels.
        width: of the image, pixels.
        area: range of the share of the image's area, uniform.
        ratio: range of width / height, log-uniform.
        p: probability that anything is erased.

    Returns:
        int32 (4,), the box; all 0 if nothing is drawn or none fits.
    """
    apply_key, box_key = jax.random.split(key)
    boxes = sample_boxes(box_key, height, width, area, ratio)
    fits = (boxes[2] < height) & (boxes[3] < width)
    applied = jax.random.bernoulli(apply_key, p)
    return first_box(boxes, fits & applied, jnp.zeros((4,), jnp.int32))


def erase(image: Array, box: Array, noise: Array) -> Array:
    """Puts `noise` (H, W, C) in the place of an image (H, W, C) inside the box, int32 (4,)."""
    return jnp.where(box_mask(box, *image.shape[:2])[..., None], noise, image)
