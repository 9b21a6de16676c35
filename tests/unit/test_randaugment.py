"""RandAugment: its law, limits, determinism, and that the shape of an image does not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.config import view
from moco_jax.data import augment, geometric, randaugment

SIZE, DRAWS, LEFT_ALONE = 12, 4000, len(randaugment.OPERATIONS)
run = jax.jit(randaugment.randaugment)


def levels(height=SIZE, width=SIZE, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.float32)


def sample(layers=2, magnitude=9.0, std=0.5, p=0.5):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draw = jax.vmap(lambda k: randaugment.sample_randaugment(k, layers, magnitude, std, p))
    return jax.tree.map(np.asarray, jax.jit(draw)(keys))


def one(name, level=1.0, sign=1.0):
    index = randaugment.OPERATIONS.index(name) if name else LEFT_ALONE
    return randaugment.Draw(jnp.array([index]), jnp.array([level]), jnp.array([sign]))


def test_operations_are_drawn_evenly_and_applied_as_often_as_asked():
    draw = sample(p=0.3)
    assert draw.operation.shape == (DRAWS, 2)
    shares = np.bincount(draw.operation.ravel(), minlength=LEFT_ALONE + 1) / draw.operation.size
    np.testing.assert_allclose(shares[:-1], 0.3 / LEFT_ALONE, atol=0.006)
    assert abs(shares[-1] - 0.7) < 0.02
    together = np.corrcoef((draw.operation < LEFT_ALONE).T)[0, 1]
    assert abs(together) < 0.06


def test_levels_are_normal_and_cut():
    level = 10 * sample(layers=3).level
    assert level.shape == (DRAWS, 3)
    assert level.max() == 10
    inner = level[level < 10]
    assert abs(np.mean(level == 10) - 0.0228) < 0.006
    assert abs(np.median(level) - 9) < 0.03
    assert abs(np.quantile(inner, 0.025) - 8.02) < 0.06
    np.testing.assert_allclose(sample(std=0.0).level, 0.9, rtol=1e-6)
    assert sample(magnitude=0.0).level.min() == 0


def test_signs_are_even_and_do_not_go_with_the_operation():
    draw = sample(p=1.0)
    assert set(np.unique(draw.sign)) == {-1, 1}
    for operation in range(LEFT_ALONE):
        assert abs(draw.sign[draw.operation == operation].mean()) < 0.2


@pytest.mark.parametrize(
    "name", [None, *randaugment.WARPS, "color", "contrast", "brightness", "sharpness"]
)
@pytest.mark.parametrize("shape", [(9, 14, 1), (14, 9, 3)])
def test_at_level_0_an_image_stays(name, shape):
    image, fill = levels(*shape), jnp.zeros(shape[-1])
    np.testing.assert_array_equal(run(image, one(name, 0.0), fill), image)


def test_color_leaves_images_without_colour():
    image = levels(channels=2)
    np.testing.assert_array_equal(run(image, one("color"), jnp.zeros(2)), image)


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_every_operation_changes_an_image_and_keeps_to_levels(name):
    image = 20 + np.round(levels(24, 30) / 2)  # fewer than 256 pixels have no histogram
    for sign in (1.0, -1.0):
        out = np.asarray(run(image, one(name, 0.9, sign), jnp.array([1.0, 2.0, 3.0])))
        assert np.any(out != image)
        np.testing.assert_array_equal(out, np.clip(np.round(out), 0, 255))


def test_translation_by_whole_pixels_is_exact_and_filled():
    image, fill = levels(20, 20), jnp.array([7.0, 8.0, 9.0])
    out = np.asarray(run(image, one("translate_x", 1.0), fill))  # 0.45 * 20 = 9 pixels
    np.testing.assert_array_equal(out[:, :11], image[:, 9:])
    np.testing.assert_array_equal(out[:, 11:], np.broadcast_to(fill, (20, 9, 3)))
    out = np.asarray(run(image, one("translate_y", 1.0, -1.0), fill))
    np.testing.assert_array_equal(out[9:], image[:11])


def test_rotating_back_and_forth_gives_the_image_back():
    y, x = np.mgrid[:40, :40]
    image = np.round(128 + 80 * np.sin(0.2 * x) * np.cos(0.15 * y))[..., None].astype(np.float32)
    there = run(image, one("rotate", 1.0), jnp.zeros(1))
    back = np.asarray(run(there, one("rotate", 1.0, -1.0), jnp.zeros(1)))
    assert np.abs(back - image)[12:28, 12:28].max() < 5
    assert np.abs(there - image)[12:28, 12:28].max() > 30


@pytest.mark.parametrize("reach", [1, 7, 8])
def test_rows_move_by_any_distance_up_to_their_reach(reach):
    image = levels(2 * reach + 1, 9, 1).astype(np.uint8)
    shift = np.arange(-reach, reach + 1)
    moved = jax.jit(geometric.shift_rows, static_argnums=2)(image, jnp.float32(shift), reach, 0.0)
    for row, out, by in zip(image, moved, shift):
        np.testing.assert_array_equal(out, row[np.clip(np.arange(9) + by, 0, 8)])


def test_batched_images_are_changed_as_single_ones():
    images = np.stack([levels()] * LEFT_ALONE)
    draws = randaugment.Draw(
        jnp.arange(LEFT_ALONE)[:, None], jnp.full((LEFT_ALONE, 1), 0.8), jnp.ones((LEFT_ALONE, 1))
    )
    batched = jax.jit(jax.vmap(randaugment.randaugment, (0, 0, None)))
    fill = jnp.array([100.0, 110.0, 120.0])
    together = np.asarray(batched(images, draws, fill))
    for i, image in enumerate(together):
        alone = run(images[i], jax.tree.map(lambda x, i=i: x[i], draws), fill)
        np.testing.assert_allclose(image, alone, atol=1)  # programs may round differently


@pytest.mark.parametrize("channels", [1, 3])
def test_as_an_operation_of_a_view(channels):
    recipe = view(order=("flip", "randaugment"), randaugment_p=1.0, flip_p=0.0)
    mean = (0.4, 0.5, 0.6)[:channels]
    views = augment.make_views((recipe, recipe), SIZE, mean, (1.0,) * channels, 0)
    pixels = np.broadcast_to(levels(channels=channels).astype(np.uint8), (8, SIZE, SIZE, channels))
    batch = {
        "crops": (jnp.asarray(pixels),) * 2,
        "epoch": jnp.zeros(8, int),
        "index": jnp.arange(8),
    }
    result = np.asarray(jax.jit(views, static_argnums=1)(batch, 0)) + np.float32(mean)
    assert result.min() > -1e-6
    assert result.max() < 1 + 1e-6
    assert len(np.unique(result.reshape(8, -1), axis=0)) > 5  # each image its own draw
    skipped = augment.skipped_operations(recipe, channels)
    assert skipped == (("color of randaugment",) if channels == 1 else ())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"randaugment_layers": 0}, "randaugment_layers=0: expected at least 1"),
        ({"randaugment_magnitude": 11.0}, "randaugment_magnitude=11.0"),
        ({"randaugment_std": -0.5}, "randaugment_std=-0.5"),
        ({"randaugment_p": 1.5}, "randaugment_p=1.5"),
    ],
)
def test_bad_settings_are_refused_when_built(bad, message):
    with pytest.raises(ValueError, match=message):
        augment.validate_view(view(**bad))
