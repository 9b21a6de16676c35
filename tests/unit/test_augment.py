"""Views of a batch on the device: determinism, channels, evaluation, bad recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moco_jax.config import view
from moco_jax.data import augment, photometric
from moco_jax.data.device_crop import crop_resize

ALL = ("jitter", "grayscale", "blur", "solarize", "flip", "erase")
SIZE, BATCH = 12, 8
STATS = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)  # mean and std, which erasing takes its noise from
jitter = jax.jit(photometric.jitter)
crop = jax.jit(crop_resize, static_argnums=2)


def random_image(channels=3, size=SIZE):
    return np.random.default_rng(0).random((size, size, channels), np.float32)


# --- views


def make_batch(channels=3, cropped=False, size=16):
    shape = (2, BATCH, SIZE, SIZE, channels) if cropped else (BATCH, size, size + 3, channels)
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return {
        **({"crops": tuple(map(jnp.asarray, image))} if cropped else {"image": jnp.asarray(image)}),
        "epoch": jnp.array([0, 0, 0, 0, 0, 1, 1, 1], jnp.int32),
        "index": jnp.array([7, 3, 5, 0, 2, 7, 3, 1], jnp.int32),
    }


def make(recipe=None, channels=3, seed=0):
    recipe = recipe or view(order=ALL, solarize_p=0.5)
    views = augment.make_views((recipe, recipe), SIZE, (0.5,) * channels, (0.25,) * channels, seed)
    return jax.jit(views, static_argnums=1)


def take(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


@pytest.fixture(scope="module")
def views():
    return make()


def test_a_view_does_not_depend_on_its_neighbours(views):
    batch, order = make_batch(), np.random.default_rng(2).permutation(BATCH)
    whole = np.asarray(views(batch, 0))
    np.testing.assert_array_equal(views(take(batch, order), 0), whole[order])
    halves = np.concatenate([views(take(batch, rows), 0) for rows in (np.s_[:4], np.s_[4:])])
    np.testing.assert_allclose(halves, whole, atol=5e-6)  # programs of other shapes may round so


def test_a_view_does_not_depend_on_the_devices(views):
    batch = make_batch()
    mesh = Mesh(np.array(jax.devices()), "data")
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    result = views(spread, 0)
    assert len(result.sharding.device_set) == 8
    np.testing.assert_allclose(result, views(batch, 0), atol=5e-6)


def test_a_view_is_a_function_of_epoch_and_index(views):
    batch = make_batch()
    batch["image"] = jnp.broadcast_to(batch["image"][:1], batch["image"].shape)
    results = np.asarray(views(batch, 0))
    assert len(np.unique(results.reshape(BATCH, -1), axis=0)) == BATCH
    np.testing.assert_array_equal(views(batch, 0), results)


def test_a_view_is_a_function_of_seed_and_which():
    crops, batch = view(order=()), make_batch()
    results = [make(crops, seed=seed)(batch, which) for seed, which in ((0, 0), (1, 0), (0, 1))]
    assert len(np.unique(np.array(results).reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize(("channels", "cropped"), [(1, False), (3, True)])
def test_views_of_any_channels(channels, cropped):
    batch, recipe = make_batch(channels, cropped), view(order=ALL[:-1], solarize_p=0.5)
    result = make(recipe, channels)(batch, 1)
    assert result.shape == (BATCH, SIZE, SIZE, channels)
    assert result.dtype == jnp.float32
    assert np.abs(result).max() <= 2 + 1e-5  # (x - 0.5) / 0.25 of x in [0, 1]
    assert np.std(result) > 0.1


def test_without_operations_the_right_view_is_only_normalized():
    batch, views = make_batch(cropped=True), make(view(order=()))
    for which in (0, 1):
        expected = (np.asarray(batch["crops"][which], np.float32) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(views(batch, which), expected, atol=1e-6)


def test_each_view_has_its_own_recipe():
    batch, recipes = make_batch(cropped=True), (view(order=("flip",), flip_p=1.0), view(order=()))
    views = augment.make_views(recipes, SIZE, (0.0,) * 3, (1.0,) * 3, 0)
    first, second = (np.asarray(crop, np.float32) / 255 for crop in batch["crops"])
    np.testing.assert_allclose(views(batch, 0), first[:, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(views(batch, 1), second, atol=1e-6)


@pytest.mark.parametrize("cropped", [False, True])
def test_a_view_may_have_a_size_of_its_own(cropped):
    batch, small = make_batch(cropped=cropped), view(size=6, order=("flip",))
    if cropped:
        batch["crops"] = batch["crops"][0], batch["crops"][1][:, :6, :6]
    views = augment.make_views((view(order=("flip",)), small), SIZE, (0.0,) * 3, (1.0,) * 3, 0)
    assert views(batch, 0).shape == (BATCH, SIZE, SIZE, 3)
    assert views(batch, 1).shape == (BATCH, 6, 6, 3)


@pytest.mark.parametrize(("blur_at", "sigma"), [(224, 6.0 * 28 / 224), (28, 6.0), (0, 6.0)])
def test_sigma_is_scaled_to_the_view_or_not(blur_at, sigma):
    """SwAV blurs small crops as much, in pixels, as large ones."""
    recipe = view(order=("blur",), blur_p=1.0, blur_sigma=(6.0, 6.0), blur_at=blur_at)
    image = jnp.zeros((28, 28, 3)).at[14, 14].set(1.0)
    blurred = augment.augment(jax.random.key(0), image, recipe, *STATS)
    expected = photometric.blur(image, jnp.float32(sigma), photometric.blur_radius(sigma, 28))
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_operations_that_are_not_drawn_are_exactly_the_identity():
    never = view(order=ALL, jitter_p=0, grayscale_p=0, blur_p=0, solarize_p=0, flip_p=0, erase_p=0)
    image = random_image()
    same = jax.jit(lambda key: augment.augment(key, jnp.asarray(image), never, *STATS))
    np.testing.assert_array_equal(same(jax.random.key(0)), image)


def test_solarize_inverts_from_the_threshold_on():
    """128 / 255 counts as 128, whichever way the division is rounded."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    batch = {"crops": (jnp.asarray(levels[None, ..., None]),) * 2}
    batch |= {"epoch": jnp.zeros(1, jnp.int32), "index": jnp.zeros(1, jnp.int32)}
    recipe = view(order=("solarize",), solarize_p=1.0)
    views = augment.make_views((recipe, recipe), 16, (0.0,), (1.0,), 0)
    result = np.asarray(jax.jit(views, static_argnums=1)(batch, 0)).reshape(-1)
    expected = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256))
    np.testing.assert_allclose(result * 255, expected, atol=1e-4)


# --- evaluation


def test_eval_view():
    pixels = make_batch(cropped=True)["crops"][0]
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (np.asarray(pixels, np.float32) / 255 - np.float32(mean)) / np.float32(std)
    whole = {"image": pixels}
    for batch, share in (({"crops": (pixels,)}, 0.875), (whole, 1.0)):
        ours = augment.eval_view(batch, SIZE, share, mean, std)
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    centre = augment.eval_view(whole, 6, 0.5, mean, std)
    np.testing.assert_allclose(centre, expected[:, 3:9, 3:9], atol=1e-6)


# --- bad input


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"order": ("jiter", "flip")}, r"view1.order='jiter'.*did you mean 'jitter'"),
        ({"order": ("flip", "blur", "flip")}, "each operation once"),
        ({"order": ("erase", "flip")}, "'erase' last"),
        ({"erase_area": (0.0, 0.5)}, "erase_area"),
        ({"blur_p": 1.2}, r"view1.blur_p=1.2: expected a value in \[0, 1\]"),
        ({"flip_p": -0.1}, "flip_p"),
        ({"jitter_p": float("nan")}, "jitter_p"),
        ({"solarize_threshold": 128.0}, "solarize_threshold=128.0"),
        ({"crop_area": (1.0, 0.2)}, "crop_area"),
        ({"crop_area": (0.2, 2.0)}, "high <= 1.0"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio"),
        ({"blur_sigma": (2.0, 0.1)}, "blur_sigma"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue of at most 0.5"),
        ({"jitter": (0.4, -0.4, 0.4, 0.1)}, "no negative strength"),
    ],
)
def test_bad_recipes_are_refused_when_built(bad, message):
    with pytest.raises(ValueError, match=message):
        make(view(**bad))


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.5,), (0.2, 0.2)), ((0.5,), (0.0,))])
def test_bad_normalization_is_refused_when_built(mean, std):
    with pytest.raises(ValueError, match="std above 0"):
        augment.make_views((view(), view()), SIZE, mean, std, 0)


def test_images_that_do_not_fit_are_refused():
    batch = make_batch(cropped=True)
    with pytest.raises(ValueError, match="images of 3 channels, but mean"):
        make(channels=1)(batch, 0)
    with pytest.raises(ValueError, match="float32, expected uint8"):
        make()(batch | {"crops": tuple(x.astype(jnp.float32) for x in batch["crops"])}, 0)
    with pytest.raises(ValueError, match="12 x 12, expected 8 x 8"):
        augment.make_views((view(), view()), 8, (0.5,) * 3, (0.5,) * 3, 0)(batch, 0)
    eval_batch = {"crops": batch["crops"][:1]}
    with pytest.raises(ValueError, match="12 x 12, expected 8 x 8"):
        augment.eval_view(eval_batch, 8, 1.0, (0.5,) * 3, (0.5,) * 3)
