"""Operations and crops of augmentation on the device: orders, identities, channels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.config import view
from moco_jax.data import augment, photometric
from moco_jax.data.device_crop import center_box, crop_resize, sample_crop_box

ALL = ("jitter", "grayscale", "blur", "solarize", "flip", "erase")
SIZE, BATCH = 12, 8
STATS = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)  # mean and std, which erasing takes its noise from
jitter = jax.jit(photometric.jitter)
crop = jax.jit(crop_resize, static_argnums=2)


def random_image(channels=3, size=SIZE):
    return np.random.default_rng(0).random((size, size, channels), np.float32)


# --- operations


def reference_hue(image, shift):
    """Float64, by the six sectors of the hexcone."""
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    safe = np.where(chroma == 0, 1, chroma)
    r, g, b = np.moveaxis(image, -1, 0)
    h = np.select(
        [value == r, value == g], [(g - b) / safe, 2 + (b - r) / safe], 4 + (r - g) / safe
    )
    h = (h / 6 + shift) % 1 * 6
    rising, falling = low + chroma * (h % 1), value - chroma * (h % 1)
    sectors = [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ]
    planes = [np.choose(h.astype(int) % 6, channel) for channel in zip(*sectors)]
    return np.stack(planes, -1)


def reference_jitter(image, factors, order):
    """Float64, the parts one after the other."""
    x = image.astype(np.float64)
    for part in order:
        if part == photometric.HUE:
            x = reference_hue(x, factors[part])
            continue
        gray = (x @ [0.299, 0.587, 0.114])[..., None]
        base = {0: np.zeros_like(gray), 1: gray.mean(), 2: gray}[part]
        x = np.clip(factors[part] * x + (1 - factors[part]) * base, 0, 1)
    return x


@pytest.mark.parametrize("factors", [(0.6, 1.4, 0.5, 0.1), (1.4, 0.7, 1.9, -0.45)])
def test_jitter_takes_all_24_orders(factors):
    image = random_image()
    results = []
    for order in itertools.permutations(range(4)):
        results.append(jitter(image, jnp.array(factors), jnp.array(order)))
        np.testing.assert_allclose(results[-1], reference_jitter(image, factors, order), atol=5e-6)
    distances = [np.abs(a - b).max() for a, b in itertools.combinations(np.array(results), 2)]
    assert np.median(distances) > 0.01  # the order matters: the test tells them apart


def test_jitter_draws_a_subset_of_parts():
    """Parts with a neutral factor leave the image to the others, bit for bit."""
    image, order = random_image(), jnp.array([3, 1, 0, 2])
    only = jitter(image, jnp.array([0.7, 1.0, 1.0, 0.0]), order)
    np.testing.assert_array_equal(only, jax.jit(photometric.blend)(image, 0, 0.7))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_neutral_parameters_are_exactly_the_identity(channels):
    image = random_image(channels)
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        same = jitter(image, jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array(order))
        np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(photometric.blur(image, 0.0, 3), image)
    np.testing.assert_array_equal(photometric.solarize(image, jnp.inf), image)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_colour_operations_skip_images_without_colour(channels):
    image, order = random_image(channels), jnp.array([2, 3, 0, 1])
    ours = jitter(image, jnp.array([1.3, 0.5, 0.2, 0.3]), order)
    bright = np.clip(1.3 * image, 0, 1)
    np.testing.assert_allclose(ours, 0.5 * bright + 0.5 * bright.mean(), atol=1e-6)
    np.testing.assert_array_equal(photometric.grayscale(image), image)


def test_skipped_operations():
    assert augment.skipped_operations(view(), 3) == ()
    assert augment.skipped_operations(view(), 1) == ("saturation", "hue", "grayscale")
    assert augment.skipped_operations(view(jitter=(0.4, 0.4, 0.0, 0.1)), 4) == ("hue", "grayscale")
    assert augment.skipped_operations(view(order=("blur", "flip")), 1) == ()


def test_blur_is_the_reflected_gaussian():
    image, sigma, radius = random_image(2), 0.8, 3
    taps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    expected = image.astype(np.float64)
    for axis in (0, 1):
        expected = np.apply_along_axis(
            lambda line: np.convolve(np.pad(line, radius, "reflect"), kernel, "valid"),
            axis,
            expected,
        )
    np.testing.assert_allclose(photometric.blur(image, sigma, radius), expected, atol=1e-6)


def test_blur_radius_scales_and_fits():
    assert photometric.blur_radius(2.0, 224) == 6
    assert photometric.blur_radius(0.25, 28) == 1
    assert photometric.blur_radius(50.0, 12) == 11
    assert photometric.blur_radius(1.0, 1) == 0


# --- crops


def test_boxes_lie_inside():
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.vmap(lambda key: sample_crop_box(key, 20, 31, (0.02, 1.0), (0.5, 2.0)))
    top, left, height, width = np.asarray(jax.jit(draw)(keys)).T
    assert min(top.min(), left.min()) == 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height).max() == 20
    assert (left + width).max() == 31


@pytest.mark.parametrize("size", [5, 12, 20])
def test_pixels_outside_the_box_do_not_leak_in(size):
    image = np.full((12, 12, 1), 1e6, np.float32)
    image[3:8, 2:11] = 0.25
    cut = crop(image, jnp.array([3, 2, 5, 9]), size)
    np.testing.assert_allclose(cut, 0.25, atol=1e-6)


def test_the_whole_image_at_its_own_size_stays():
    image = random_image()
    np.testing.assert_array_equal(crop(image, center_box(SIZE, SIZE, 1.0), SIZE), image)


def test_center_box():
    np.testing.assert_array_equal(center_box(320, 480, 0.875), [20, 100, 280, 280])
    np.testing.assert_array_equal(center_box(1, 9, 0.1), [0, 4, 1, 1])
    with pytest.raises(ValueError, match="crop_share="):
        center_box(10, 10, 1.5)
