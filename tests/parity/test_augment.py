"""Photometric operations against torchvision on float tensors, and the law of their parameters.

1e-6 to 5e-6 is float32 rounding. Where gray takes part, 1e-4 is added: our luma has 0.299 for
red, as the standard and PIL, where torchvision's tensors have 0.2989. Random parameters are
tested at a significance of 1e-3 each, all seeds fixed.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import transforms
from torchvision.transforms import functional

from moco_jax.config import view
from moco_jax.data import augment, photometric

pytestmark = pytest.mark.parity

torch.set_num_threads(1)  # small images: threads only get in each other's way

SIZE = 24
GRAY = 1e-4  # torchvision's luma differs by as much
DRAWS = 4000
STATS = (0.5,) * 3, (0.25,) * 3  # mean and std

RECIPES = {
    "v1": view(order=("grayscale", "jitter", "flip"), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0),
    "v2": view(),
    "v3 view 1": view(jitter=(0.4, 0.4, 0.2, 0.1), blur_p=1.0),
    "v3 view 2": view(
        jitter=(0.4, 0.4, 0.2, 0.1),
        blur_p=0.1,
        order=("jitter", "grayscale", "blur", "solarize", "flip"),
    ),
}


def make_images():
    rng = np.random.default_rng(0)
    shape = (SIZE, SIZE, 3)
    noise = rng.random(shape, np.float32)
    levels = rng.integers(0, 256, shape).astype(np.float32) / 255
    return {
        "noise": noise,
        "levels": levels,
        "primaries": (levels > 0.5).astype(np.float32),
        "pale": 0.5 + (noise - 0.5) / 255,
        "gray": np.repeat(noise[..., :1], 3, -1),
        "constant": np.broadcast_to(np.float32([0.2, 0.7, 0.4]), shape).copy(),
        "black": np.zeros(shape, np.float32),
        "white": np.ones(shape, np.float32),
    }


IMAGES = make_images()
each_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())


def to_torch(image):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0)))


def assert_equal(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, np.moveaxis(theirs.numpy(), 0, -1), rtol=0, atol=tolerance)


ADJUSTMENTS = {
    photometric.BRIGHTNESS: (functional.adjust_brightness, 0.0),
    photometric.CONTRAST: (functional.adjust_contrast, GRAY),
    photometric.SATURATION: (functional.adjust_saturation, GRAY),
    photometric.HUE: (functional.adjust_hue, 0.0),
}
blend = jax.jit(photometric.blend)
hue = jax.jit(photometric.hue)
jitter = jax.jit(photometric.jitter)
blur = jax.jit(photometric.blur, static_argnums=2)


@each_image
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.5])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["brightness", "contrast", "saturation"])
def test_blend(image, part, factor):
    adjust, gray = ADJUSTMENTS[part]
    tolerance = 1e-6 + gray * abs(1 - factor)
    assert_equal(blend(image, part, factor), adjust(to_torch(image), factor), tolerance)


@each_image
@pytest.mark.parametrize("shift", [-0.5, -0.37, -0.1, 0.0, 0.05, 1 / 6, 0.4, 0.5])
def test_hue(image, shift):
    assert_equal(hue(image, shift), functional.adjust_hue(to_torch(image), shift), 5e-6)


@each_image
def test_grayscale(image):
    assert_equal(
        photometric.grayscale(image), functional.rgb_to_grayscale(to_torch(image), 3), GRAY + 1e-6
    )


@each_image
@pytest.mark.parametrize(("sigma", "radius"), [(0.1, 1), (0.25, 1), (1.0, 3), (2.0, 6), (5.0, 23)])
def test_blur(image, sigma, radius):
    theirs = functional.gaussian_blur(to_torch(image), [2 * radius + 1] * 2, [sigma] * 2)
    assert_equal(blur(image, sigma, radius), theirs, 3e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.2, 0.34, 0.5, 1.0, 2.0])
def test_truncated_blur_stays_near_the_whole_gaussian(sigma):
    """Cut at three sigma and normalized, it stays within the 0.3 % that is left out."""
    image = IMAGES["primaries"]
    whole = ndimage.gaussian_filter(
        image.astype(np.float64), sigma, mode="mirror", truncate=20, axes=(0, 1)
    )
    ours = blur(image, sigma, photometric.blur_radius(sigma, SIZE))
    np.testing.assert_allclose(ours, whole, rtol=0, atol=3e-3)


@each_image
@pytest.mark.parametrize("threshold", [0.0, 0.3, 128 / 255, 1.0])
def test_solarize(image, threshold):
    assert_equal(
        photometric.solarize(image, threshold),
        functional.solarize(to_torch(image), np.float32(threshold)),
        0.0,
    )


@each_image
def test_flip(image):
    assert_equal(photometric.flip(image), functional.hflip(to_torch(image)), 0.0)


def compose_jitter(image, factors, order):
    image = to_torch(image)
    for part in order:
        image = ADJUSTMENTS[part][0](image, factors[part])
    return image


@each_image
@pytest.mark.parametrize("factors", [(0.6, 1.4, 0.7, 0.1), (1.4, 0.6, 1.4, -0.4)])
def test_jitter_in_all_orders(image, factors):
    """The luma's 1e-4 enters twice, and the factors amplify it: 2e-4 (7e-5 is reached)."""
    for order in itertools.permutations(range(4)):
        ours = jitter(image, jnp.array(factors), jnp.array(order))
        assert_equal(ours, compose_jitter(image, factors, order), 2e-4)


@pytest.mark.parametrize("factors", [(0.6, 1.4, 0.7, 0.1), (1.4, 0.6, 1.4, -0.4)])
def test_jitter_of_one_channel(factors):
    image = IMAGES["noise"][..., :1]
    for order in itertools.permutations(range(4)):
        ours = jitter(image, jnp.array(factors), jnp.array(order))
        assert_equal(ours, compose_jitter(image, factors, order), 2e-6)


FIXED = {
    "grayscale": lambda x: functional.rgb_to_grayscale(x, 3),
    "blur": lambda x: functional.gaussian_blur(x, [3, 3], [2.0 * SIZE / 224] * 2),
    "solarize": lambda x: functional.solarize(x, np.float32(128 / 255)),
    "flip": functional.hflip,
}


@pytest.mark.parametrize(
    "order",
    [("grayscale", "blur", "flip"), ("blur", "solarize", "flip"), ("flip", "solarize", "blur")],
)
def test_a_recipe_is_its_operations_in_turn(order):
    always = {f"{name}_p": 1.0 for name in order}
    recipe = view(order=order, blur_sigma=(2.0, 2.0), **always)
    theirs = to_torch(IMAGES["levels"])
    for name in order:
        theirs = FIXED[name](theirs)
    ours = augment.augment(jax.random.key(0), jnp.asarray(IMAGES["levels"]), recipe, *STATS)
    assert_equal(ours, theirs, GRAY + 2e-6)


def keys(seed=0, draws=DRAWS):
    return jax.random.split(jax.random.key(seed), draws)


def assert_frequency(hits, share):
    assert stats.binomtest(int(np.sum(hits)), len(hits), share).pvalue > 1e-3


def test_jitter_parameters():
    strengths = (0.4, 1.5, 0.2, 0.1)  # 1.5: torchvision cuts the range at 0
    factors, _ = jax.vmap(lambda key: augment.sample_jitter(key, strengths, 1.0))(keys())
    jittered = transforms.ColorJitter(*strengths)
    ranges = (jittered.brightness, jittered.contrast, jittered.saturation, jittered.hue)
    factors = np.asarray(factors, np.float64)
    for values, (low, high) in zip(factors.T, ranges):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    correlation = stats.spearmanr(factors).statistic
    assert np.max(np.abs(correlation - np.eye(4))) < 0.06  # 3.8 deviations


def test_jitter_orders_are_uniform():
    _, orders = jax.vmap(lambda key: augment.sample_jitter(key, (0.4,) * 4, 1.0))(keys())
    found, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert {tuple(order) for order in found} == set(itertools.permutations(range(4)))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_jitter_is_applied_as_often_as_asked():
    draw = jax.vmap(lambda key: augment.sample_jitter(key, (0.4, 0.4, 0.4, 0.1), 0.8))
    factors, orders = map(np.asarray, draw(keys(1)))
    applied = np.any(factors != [1, 1, 1, 0], axis=1)
    assert_frequency(applied, 0.8)
    brightness = factors[applied, 0].astype(np.float64)
    assert stats.kstest(brightness, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    _, counts = np.unique(orders[applied], axis=0, return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_blur_parameters():
    sigma = jax.vmap(lambda key: augment.sample_sigma(key, (0.1, 2.0), 0.5))(keys())
    sigma = np.asarray(sigma, np.float64)
    assert_frequency(sigma > 0, 0.5)
    assert stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "share"), [("grayscale", 0.2), ("solarize", 0.2), ("flip", 0.5), ("blur", 0.1)]
)
def test_operations_are_applied_as_often_as_asked(name, share):
    recipe = view(order=(name,), **{f"{name}_p": share}, blur_sigma=(100.0, 100.0))
    image = jnp.array([[[0.9, 0.1, 0.2], [0.1, 0.8, 0.3]]] * 2)
    run = jax.vmap(lambda key: augment.augment(key, image, recipe, *STATS))
    assert_frequency(np.any(run(keys(2)) != image[None], axis=(1, 2, 3)), share)


def torchvision_recipe(recipe, size):
    """The same recipe as a torchvision pipeline on float tensors."""
    scale = size / recipe.blur_at
    radius = photometric.blur_radius(scale * recipe.blur_sigma[1], size)
    sigma = tuple(scale * s for s in recipe.blur_sigma)
    blurred = transforms.GaussianBlur(2 * radius + 1, sigma)
    operations = {
        "jitter": transforms.RandomApply([transforms.ColorJitter(*recipe.jitter)], recipe.jitter_p),
        "grayscale": transforms.RandomGrayscale(recipe.grayscale_p),
        "blur": transforms.RandomApply([blurred], recipe.blur_p),
        "solarize": transforms.RandomSolarize(recipe.solarize_threshold, recipe.solarize_p),
        "flip": transforms.RandomHorizontalFlip(recipe.flip_p),
    }
    crop = transforms.RandomResizedCrop(size, recipe.crop_area, recipe.crop_ratio, antialias=True)
    return transforms.Compose([crop, *(operations[name] for name in recipe.order)])


def summarize(images):
    """Of each image (N, S, S, 3): brightness, contrast, colour, sharpness, left-right balance."""
    return {
        "mean": images.mean((1, 2, 3)),
        "contrast": images.std((1, 2, 3)),
        "red": images[..., 0].mean((1, 2)),
        "saturation": (images.max(-1) - images.min(-1)).mean((1, 2)),
        "sharpness": np.abs(np.diff(images, axis=1)).mean((1, 2, 3)),
        "balance": images[:, :, :8].mean((1, 2, 3)) - images[:, :, -8:].mean((1, 2, 3)),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_views_have_the_law_of_torchvisions_pipeline(name):
    """End to end, one image a thousand times: crop, all operations, no normalization."""
    recipe, size, draws = RECIPES[name], 32, 1000
    ramp = np.linspace(0, 1, 48)
    picture = np.stack([ramp[:, None] * ramp, 0.8 - 0.6 * ramp + 0 * ramp[:, None]], -1)
    picture = np.concatenate([picture, 0.3 * np.eye(48)[..., None] + 0.2], -1)
    pixels = np.round(255 * picture).astype(np.uint8)
    views = augment.make_views((recipe, recipe), size, (0.0,) * 3, (1.0,) * 3, seed=0)
    batch = {
        "image": jnp.asarray(np.broadcast_to(pixels, (draws, *pixels.shape))),
        "epoch": jnp.zeros(draws, jnp.int32),
        "index": jnp.arange(draws, dtype=jnp.int32),
    }
    ours = np.asarray(jax.jit(views, static_argnums=1)(batch, 0))
    torch.manual_seed(0)
    pipeline, image = torchvision_recipe(recipe, size), to_torch(pixels.astype(np.float32) / 255)
    theirs = np.stack([np.moveaxis(pipeline(image).numpy(), 0, -1) for _ in range(draws)])
    for statistic, values in summarize(ours).items():
        p = stats.ks_2samp(values, summarize(theirs)[statistic]).pvalue
        assert p > 1e-3, f"{statistic}: p={p}"
