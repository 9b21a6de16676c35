"""Mixup and CutMix: their law, limits, determinism and cost over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from moco_jax.ops.mix import Mix, mix_images, mix_targets, sample_mix

B, H, W, DRAWS = 16, 10, 14, 2000


def images(batch=B):
    return np.random.default_rng(0).normal(size=(batch, H, W, 1)).astype(np.float32)


def draws(*settings):
    """The shares, and the areas of the boxes as shares of the image."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    mix = jax.jit(jax.vmap(lambda key: sample_mix(key, H, W, *settings)))(keys)
    return np.asarray(mix.share, np.float64), np.asarray(mix.box[:, 2] * mix.box[:, 3]) / (H * W)


def both(x, mix):
    return mix_images(x, mix), mix_targets(x[:, 0, :, 0], mix)


def test_mixup_alone_draws_its_beta():
    shares, areas = draws(0.8, 0.0)
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert not areas.any()


def test_cutmix_alone_has_boxes_and_their_true_shares():
    shares, areas = draws(0.0, 1.0)
    np.testing.assert_allclose(shares, 1 - areas, atol=1e-6)
    # Uniform but for rounding and the borders, which leave at least the quarter of each box.
    assert np.mean(areas > 0) > 0.9
    assert 0.2 < np.mean(areas) < 0.5


@pytest.mark.parametrize(("p", "cutmix_p"), [(1.0, 0.5), (0.3, 0.8)])
def test_how_often_batches_are_mixed_and_cut(p, cutmix_p):
    shares, areas = draws(0.8, 1.0, p, cutmix_p)
    mixed = shares < 1
    empty = 0.015  # boxes of less than a pixel
    assert abs(np.mean(mixed) - p) < empty * p + 4 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9
    assert abs(np.mean(areas[mixed] > 0) - cutmix_p) < 0.07


@pytest.mark.parametrize("settings", [(0.0, 0.0), (0.8, 1.0, 0.0)])
def test_without_either_nothing_is_mixed(settings):
    mix = sample_mix(jax.random.key(0), H, W, *settings)
    for got, want in zip(both(images(), mix), (images(), images()[:, 0, :, 0])):
        np.testing.assert_array_equal(got, want)


def test_at_share_0_partners_change_places():
    got = mix_images(images(), Mix(jnp.float32(0), jnp.zeros((4,))))
    np.testing.assert_array_equal(got, images()[::-1])


def test_the_odd_image_in_the_middle_is_its_own_partner():
    got = mix_images(images(3), Mix(jnp.float32(0.5), jnp.zeros((4,))))
    np.testing.assert_array_equal(got[1], images(3)[1])


def test_mixing_over_devices_sends_each_shard_once():
    """And gives the same: a key alone decides the draw."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))

    def mixed(x):
        return both(x, sample_mix(jax.random.key(3), H, W, 0.8, 1.0))

    split = jax.jit(mixed, in_shardings=sharding, out_shardings=sharding)
    text = split.lower(images()).compile().as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text
    for got, want in zip(split(images()), jax.jit(mixed)(images())):
        np.testing.assert_allclose(got, want, atol=1e-6)
