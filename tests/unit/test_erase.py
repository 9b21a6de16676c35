"""Random erasing: where, how often, with what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.config import view
from moco_jax.data import augment
from moco_jax.data.erase import erase, sample_erase_box

H, W, DRAWS = 20, 31, 2000


def sample(p=1.0, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), size=(H, W)):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draw = jax.vmap(lambda key: sample_erase_box(key, *size, area, ratio, p))
    return np.asarray(jax.jit(draw)(keys))


def test_boxes_lie_inside_and_reach_every_border():
    top, left, height, width = sample().T
    assert min(height.min(), width.min()) >= 1
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (H, W)
    assert (height.max() < H, width.max() < W) == (True, True)


def test_areas_and_ratios_are_those_asked_for():
    _, _, height, width = sample(area=(0.1, 0.3), ratio=(0.5, 2.0), size=(200, 210)).T
    area, ratio = height * width / (200 * 210), width / height
    np.testing.assert_allclose([area.min(), area.max(), area.mean()], [0.1, 0.3, 0.2], atol=0.01)
    np.testing.assert_allclose([ratio.min(), ratio.max()], [0.5, 2.0], rtol=0.03)
    assert abs(np.log(ratio).mean()) < 0.05


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_how_often(p):
    assert abs(np.mean(sample(p)[:, 2] > 0) - p) < 4 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9


def test_where_no_box_fits_nothing_is_erased():
    assert not sample(area=(1.0, 1.0), ratio=(1.0, 1.0), size=(12, 12)).any()


def test_erase_puts_noise_inside_the_box_only():
    image, noise = np.zeros((5, 7, 2), np.float32), np.ones((5, 7, 2), np.float32)
    expected = image.copy()
    expected[1:3, 4:7] = 1
    np.testing.assert_array_equal(jax.jit(erase)(image, jnp.array([1, 4, 2, 3]), noise), expected)
    np.testing.assert_array_equal(jax.jit(erase)(image, jnp.zeros(4, jnp.int32), noise), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_erased_pixels_are_standard_normal_once_normalized(channels):
    recipe = view(order=("erase",), erase_p=1.0, erase_area=(0.5, 0.5), erase_ratio=(1.0, 1.0))
    mean, std = (0.4, 0.1, 0.7)[:channels], (0.2, 0.05, 0.5)[:channels]
    views = augment.make_views((recipe, recipe), 32, mean, std, 0)
    batch = {"crops": (jnp.full((16, 32, 32, channels), 255, jnp.uint8),) * 2}
    batch |= dict.fromkeys(("epoch", "index"), jnp.arange(16))
    result = np.asarray(jax.jit(views, static_argnums=1)(batch, 0))
    untouched = (1 - np.float32(mean)) / np.float32(std)
    erased = np.abs(result - untouched).max(-1) > 1e-5
    assert abs(erased.mean() - 0.5) < 0.03
    pixels = result[erased]
    np.testing.assert_allclose(pixels.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(pixels.T), np.eye(channels).squeeze(), atol=0.06)
    assert len(np.unique(pixels[:, 0])) > 0.99 * len(pixels)  # one draw for each pixel
