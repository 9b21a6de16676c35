"""Photometric operations on images, on the device.

The contract of every operation: one image, float32 (H, W, C) in [0, 1], gives one of the same
shape and range; pure, made for `jax.vmap`, under which a choice per image is arithmetic rather
than a branch. The meaning of each is torchvision's on float tensors. Gray is luma for three
channels and the channels' mean otherwise; saturation, hue and grayscale leave images of other
than three channels alone.

Shapes: H W image, C channels.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the jitter's parts, as its settings list them
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601; torchvision's 0.2989 on tensors sums to 0.9999


def gray(image: Array) -> Array:
    """Luma of a colour image, mean of the channels otherwise: float32 (H, W, 1)."""
    if image.shape[-1] != 3:
        return jnp.mean(image, -1, keepdims=True)
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))


def blend(image: Array, part: Array | int, factor: Array | float) -> Array:
    """Adjusts brightness, contrast or saturation; a factor of 1 is exactly the identity.

    Args:
        image: float32 (H, W, C).
        part: which: `BRIGHTNESS` blends with black, `CONTRAST` with the mean of the gray image,
            `SATURATION` with the gray image.
        factor: share of the image in the blend, at least 0.

    Returns:
        float32 (H, W, C), clipped to [0, 1].
    """
    gray_image = gray(image)
    base = jnp.where(part == CONTRAST, jnp.mean(gray_image), gray_image)
    base = jnp.where(part == BRIGHTNESS, 0.0, base)
    return jnp.clip(factor * image + (1.0 - factor) * base, 0.0, 1.0)


def hue(image: Array, shift: Array | float) -> Array:
    """Turns the hue in HSV; a shift of 0 is exactly the identity.

    Args:
        image: float32 (H, W, 3).
        shift: turns of the colour circle.

    Returns:
        float32 (H, W, 3).
    """
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    divisor = jnp.where(chroma == 0.0, 1.0, chroma)
    from_green_or_blue = jnp.where(value == g, 2.0 + (b - r) / divisor, 4.0 + (r - g) / divisor)
    sixths = jnp.where(value == r, (g - b) / divisor, from_green_or_blue) + 6.0 * shift

    def channel(offset: float) -> Array:
        place = jnp.mod(offset + sixths, 6.0)
        return value - chroma * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)

    turned = jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)
    return jnp.where(shift == 0.0, image, turned)


def jitter(image: Array, factors: Array, order: Array) -> Array:
    """Colour jitter with given factors in a given order.

    An order per image would make `vmap` evaluate every part at every place. The parts but hue
    are one blend with a choice of base, so two rounds of three blends around one hue are
    enough: each blend is active before or after hue, and the identity in the other round.

    Args:
        image: float32 (H, W, C).
        factors: float32 (4,): of brightness, contrast and saturation, and the shift of hue;
            (1, 1, 1, 0) is exactly the identity.
        order: int32 (4,), a permutation of the four parts.

    Returns:
        float32 (H, W, C).
    """
    colour = image.shape[-1] == 3
    if not colour:
        factors = factors.at[SATURATION].set(1.0)
    before_hue = jnp.arange(3) < jnp.argmax(order == HUE)
    parts = jnp.where(before_hue, order[:3], order[1:])
    image = _blends(image, parts, jnp.where(before_hue, factors[parts], 1.0))
    if colour:
        image = hue(image, factors[HUE])
    image = _blends(image, parts, jnp.where(before_hue, 1.0, factors[parts]))
    return image


def _blends(image: Array, parts: Array, factors: Array) -> Array:
    # A scan: unrolled, XLA fuses the blends and computes the first anew for each use of the last.
    image, _ = jax.lax.scan(lambda x, blended: (blend(x, *blended), None), image, (parts, factors))
    return image


def grayscale(image: Array) -> Array:
    """The gray image in all three channels; images of other than three channels stay."""
    return jnp.broadcast_to(gray(image), image.shape) if image.shape[-1] == 3 else image


def blur_radius(sigma: float, size: int) -> int:
    """Radius of the kernel that holds a Gaussian of up to `sigma` pixels, for `size` pixels.

    Cut at three sigma: what is left out weighs at most 0.3 %, and the kernel is normalized
    after. At least 1, and no more than reflection has pixels for.
    """
    return min(max(1, math.ceil(3 * sigma)), size - 1)


def blur(image: Array, sigma: Array | float, radius: int) -> Array:
    """Gaussian blur, separable, the border reflected; a sigma of 0 is exactly the identity.

    Args:
        image: float32 (H, W, C).
        sigma: pixels.
        radius: of the kernel, pixels; static, hence the same for all images.

    Returns:
        float32 (H, W, C).
    """
    # At 1e-3 pixels all weights but the central one underflow to 0.
    distance = jnp.arange(radius + 1, dtype=jnp.float32) / jnp.maximum(sigma, 1e-3)
    kernel = jnp.exp(-0.5 * distance**2)
    kernel = kernel / (2.0 * jnp.sum(kernel) - 1.0)
    for axis in (0, 1):
        image = _convolve(image, kernel, axis)
    return image


def _convolve(image: Array, half_kernel: Array, axis: int) -> Array:
    # Sums of shifted slices fuse into one loop; a convolution with a kernel per image does not.
    radius, size = half_kernel.shape[0] - 1, image.shape[axis]
    padding = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
    padded = jnp.pad(image, padding, mode="reflect")

    def shifted(by: int) -> Array:
        return jax.lax.slice_in_dim(padded, radius + by, radius + by + size, axis=axis)

    pairs = (half_kernel[i] * (shifted(-i) + shifted(i)) for i in range(1, radius + 1))
    return sum(pairs, half_kernel[0] * shifted(0))


def solarize(image: Array, threshold: Array | float) -> Array:
    """Inverts the values at or above `threshold`; an infinite one is exactly the identity.

    Args:
      image: (H, W, C) in [0, 1].
      threshold: of the same unit.
    """
    return jnp.where(image >= threshold, 1.0 - image, image)


def flip(image: Array) -> Array:
    """Mirrors left and right."""
    return image[:, ::-1]
