"""Augmentation on the device: a recipe's random views of a batch, uint8 in, normalized out.

A recipe is plain data, `moco_jax.config.view()`. Each random operation draws its parameters for
one image from that image's own key and is made for `jax.vmap`.

Shapes: B batch, H W image, S view size, C channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from moco_jax.config import choose
from moco_jax.data import photometric
from moco_jax.data.device_crop import center_box, crop_resize, sample_crop_box
from moco_jax.data.erase import erase, sample_erase_box
from moco_jax.data.photometric import HUE, SATURATION
from moco_jax.data.randaugment import levels_of, randaugment, sample_randaugment
from moco_jax.errors import InputError


def sample_jitter(key: Array, strengths: Sequence[float], p: float) -> tuple[Array, Array]:
    """Draws the jitter of one image.

    Args:
        key: random key.
        strengths: (brightness, contrast, saturation, hue): factors are uniform in [1 - x, 1 + x],
            from 0 on, the hue's shift in [-x, x] turns.
        p: probability that the image is jittered; otherwise the factors are the identity's.

    Returns:
        float32 (4,), the factors, and int32 (4,), the order: see `photometric.jitter`.
    """
    apply_draw, factor_draw, order_draw = jax.random.uniform(key, (3, 4))
    centers = np.array([1, 1, 1, 0], np.float32)
    reach = np.array(strengths, np.float32)
    low, high = np.maximum(centers - reach, [0, 0, 0, -1], dtype=np.float32), centers + reach
    factors = jnp.where(apply_draw[0] < p, low + (high - low) * factor_draw, centers)
    return factors, jnp.argsort(order_draw)


def sample_sigma(key: Array, sigma: Sequence[float], p: float) -> Array:
    """Draws a blur by `key`: float32 (), uniform in `sigma` with probability `p`, else 0."""
    apply_draw, sigma_draw = jax.random.uniform(key, (2,))
    return jnp.where(apply_draw < p, sigma[0] + (sigma[1] - sigma[0]) * sigma_draw, 0.0)


def _random_jitter(key: Array, image: Array, view: ConfigDict, *_: Any) -> Array:
    return photometric.jitter(image, *sample_jitter(key, view.jitter, view.jitter_p))


def _random_grayscale(key: Array, image: Array, view: ConfigDict, *_: Any) -> Array:
    return jnp.where(
        jax.random.bernoulli(key, view.grayscale_p), photometric.grayscale(image), image
    )


def _random_blur(key: Array, image: Array, view: ConfigDict, *_: Any) -> Array:
    size = min(image.shape[:2])
    scale = size / (view.blur_at or size)
    sigma = scale * sample_sigma(key, view.blur_sigma, view.blur_p)
    return photometric.blur(image, sigma, photometric.blur_radius(scale * view.blur_sigma[1], size))


def _random_solarize(key: Array, image: Array, view: ConfigDict, *_: Any) -> Array:
    applied = jax.random.bernoulli(key, view.solarize_p)
    return photometric.solarize(image, jnp.where(applied, view.solarize_threshold, jnp.inf))


def _random_flip(key: Array, image: Array, view: ConfigDict, *_: Any) -> Array:
    return jnp.where(jax.random.bernoulli(key, view.flip_p), photometric.flip(image), image)


def _random_erase(
    key: Array, image: Array, view: ConfigDict, mean: Sequence[float], std: Sequence[float]
) -> Array:
    box_key, noise_key = jax.random.split(key)
    size = image.shape[:2]
    box = sample_erase_box(box_key, *size, view.erase_area, view.erase_ratio, view.erase_p)
    # Standard normal once the image is normalized: as there, values may lie outside [0, 1].
    noise = jax.random.normal(noise_key, image.shape)
    return erase(image, box, _per_channel(mean) + _per_channel(std) * noise)


def _random_randaugment(
    key: Array, image: Array, view: ConfigDict, mean: Sequence[float], *_: Any
) -> Array:
    draw = sample_randaugment(
        key,
        view.randaugment_layers,
        view.randaugment_magnitude,
        view.randaugment_std,
        view.randaugment_p,
    )
    return randaugment(levels_of(image), draw, levels_of(jnp.array(mean))) / 255.0


# What `view.order` may name. Each has its own key: it draws the same whatever else is in a recipe.
# New ones come last, which leaves the others the keys that they had.
OPERATIONS = {
    "jitter": _random_jitter,
    "grayscale": _random_grayscale,
    "blur": _random_blur,
    "solarize": _random_solarize,
    "flip": _random_flip,
    "erase": _random_erase,
    "randaugment": _random_randaugment,
}


def augment(
    key: Array, image: Array, view: ConfigDict, mean: Sequence[float], std: Sequence[float]
) -> Array:
    """The operations of a recipe after its crop, in its order.

    Args:
        key: random key.
        image: float32 (H, W, C) in [0, 1].
        view: the recipe.
        mean: of the data per channel.
        std: per channel.

    Returns:
        float32 (H, W, C); in [0, 1] but for erased pixels.
    """
    keys = dict(zip(OPERATIONS, jax.random.split(key, len(OPERATIONS))))
    for name in view.order:
        image = OPERATIONS[name](keys[name], image, view, mean, std)
    return image


def skipped_operations(view: ConfigDict, channels: int) -> tuple[str, ...]:
    """The operations of a `view` that have no meaning for so many `channels` and are skipped."""
    jittered = "jitter" in view.order and view.jitter_p > 0
    asked = {
        "saturation": jittered and view.jitter[SATURATION] > 0,
        "hue": jittered and view.jitter[HUE] > 0,
        "grayscale": "grayscale" in view.order and view.grayscale_p > 0,
        "color of randaugment": "randaugment" in view.order and view.randaugment_p > 0,
    }
    return () if channels == 3 else tuple(name for name, is_asked in asked.items() if is_asked)


def validate_view(view: ConfigDict, name: str = "view") -> None:
    """Raises an InputError for the first bad value of a `view`, called `name`, if there is one."""

    def check(field: str, good: bool, expected: str) -> None:
        if not good:
            raise InputError(f"{name}.{field}={view[field]!r}: expected {expected}")

    for operation in view.order:
        choose(f"{name}.order", operation, OPERATIONS)
    check("order", len(set(view.order)) == len(view.order), "each operation once")
    check("order", "erase" not in view.order[:-1], "'erase' last: its noise leaves [0, 1]")
    for field in (*(f"{operation}_p" for operation in OPERATIONS), "solarize_threshold"):
        check(field, 0 <= view[field] <= 1, "a value in [0, 1]")
    ranges = {"crop_area": 1.0, "crop_ratio": math.inf, "blur_sigma": math.inf}
    ranges |= {"erase_area": 1.0, "erase_ratio": math.inf}
    for field, most in ranges.items():
        low, high = view[field]
        check(field, 0 < low <= high <= most, f"(low, high) with 0 < low <= high <= {most}")
    check("size", view.size >= 0, "pixels, or 0 for data.image_size")
    check("blur_at", view.blur_at >= 0, "pixels, or 0 for no scaling")
    check("randaugment_layers", view.randaugment_layers >= 1, "at least 1")
    check("randaugment_magnitude", 0 <= view.randaugment_magnitude <= 10, "a value in [0, 10]")
    check("randaugment_std", 0 <= view.randaugment_std < math.inf, "0 or more")
    check("jitter", len(view.jitter) == 4, "(brightness, contrast, saturation, hue)")
    check("jitter", min(view.jitter) >= 0, "no negative strength")
    check("jitter", view.jitter[HUE] <= 0.5, "a hue of at most 0.5, half the colour circle")


def make_views(
    views: Sequence[ConfigDict],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Callable[[dict[str, Array], int], Array]:
    """Builds the function that augments a training batch.

    Args:
        views: the recipes of the V views.
        image_size: pixels, of the views without a size of their own.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        seed: of the run. A view depends on (seed, epoch, index, which) and on nothing else: not
            on the place in the batch, the size of the batch or the number of devices.

    Returns:
        A function of a batch and `which` (below V, static). The batch holds `crops`, V arrays
        uint8 (B, S, S, C) with the views cropped already, or `image`, uint8 (B, H, W, C), to be
        cropped here; `epoch` and `index`, int32 (B,). It gives float32 (B, S, S, C), normalized,
        where S is the view's own size.

    Raises:
        InputError: if a recipe, `mean` or `std` is bad; when traced, if images do not fit.
    """
    for number, view in enumerate(views, 1):
        validate_view(view, f"view{number}")
    normalize = _normalizer(mean, std)

    def augment_view(batch: dict[str, Array], which: int) -> Array:
        view, cropped = views[which], "crops" in batch
        size = view.size or image_size
        images = batch["crops"][which] if cropped else batch["image"]
        if cropped:
            _check_size(images, size)

        def one(image: Array, epoch: Array, index: Array) -> Array:
            key = jax.random.key(seed)
            for number in (epoch, index, which):
                key = jax.random.fold_in(key, number)
            crop_key, augment_key = jax.random.split(key)
            if not cropped:
                box = sample_crop_box(crop_key, *image.shape[:2], view.crop_area, view.crop_ratio)
                image = crop_resize(image, box, size)
            return normalize(augment(augment_key, image, view, mean, std))

        return jax.vmap(one)(_to_float(images), batch["epoch"], batch["index"])

    return augment_view


def eval_view(
    batch: dict[str, Array],
    image_size: int,
    crop_share: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Array:
    """The one unaugmented view that evaluation sees.

    Args:
        batch: holds `image`, uint8 (B, H, W, C), or `crops`, one array uint8 (B, S, S, C) that
            the host has made ready: it is only normalized.
        image_size: S, pixels.
        crop_share: side of the central square, as a share of the short side.
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Returns:
        float32 (B, S, S, C), normalized.

    Raises:
        InputError: if the images, `crop_share`, `mean` or `std` do not fit.
    """
    normalize = _normalizer(mean, std)
    if "crops" in batch:
        (crops,) = batch["crops"]
        images = _to_float(crops)
        _check_size(images, image_size)
    else:
        images = _to_float(batch["image"])
        box = center_box(*images.shape[1:3], crop_share)
        images = jax.vmap(lambda image: crop_resize(image, box, image_size))(images)
    return jax.vmap(normalize)(images)


def _to_float(images: Array) -> Array:
    if images.dtype != jnp.uint8:
        raise InputError(f"images are {images.dtype}, expected uint8")
    return images.astype(jnp.float32) / 255.0


def _check_size(images: Array, size: int) -> None:
    if images.shape[1:3] != (size, size):
        height, width = images.shape[1:3]
        raise InputError(f"cropped images are {height} x {width}, expected {size} x {size}")


def _normalizer(mean: Sequence[float], std: Sequence[float]) -> Callable[[Array], Array]:
    if len(mean) != len(std) or len(mean) == 0 or min(std) <= 0:
        raise InputError(f"mean={mean!r}, std={std!r}: expected one each per channel, std above 0")
    center, scale = _per_channel(mean), _per_channel(std)

    def normalize(image: Array) -> Array:
        if image.shape[-1] != len(mean):
            raise InputError(f"images of {image.shape[-1]} channels, but mean={mean!r}")
        return (image - center) / scale

    return normalize


def _per_channel(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, -1)
