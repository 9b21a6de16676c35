"""How networks run on views: of several sizes, with a random key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.methods.method import Batch
from moco_jax.methods.networks import make_networks
from tests.tiny import tiny_config


def make(method, **vit):
    c = tiny_config(method, "embedded")
    c.model.vit.update(vit)
    nets = make_networks(c)
    params, stats = nets.init(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
    return nets, params, stats


def batch(*sizes):
    """Views of random pixels, a size each."""
    rng = np.random.default_rng(0)
    crops = [rng.normal(size=(16, size, size, 1)).astype(np.float32) for size in sizes]
    return Batch({"crops": tuple(map(jnp.asarray, crops))}, lambda entries, i: entries["crops"][i])


@pytest.mark.parametrize("method", ["v1", "v3"])
def test_views_of_several_sizes_are_those_of_each_alone(method):
    """With BatchNorm (v1: in turn, its statistics renewed so) and without (v3: by size)."""
    nets, params, stats = make(method)
    views = batch(12, 8, 12, 8)
    together, after = jax.jit(lambda: nets.features(params, stats, views, (0, 1, 2, 3)))()
    each = []
    for i in range(4):
        x, stats = jax.jit(lambda s, i=i: nets.features(params, s, views, (i,)))(stats)
        each.append(x[0])
    np.testing.assert_allclose(together, np.stack(each), rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after, stats)


def test_a_key_drops_paths_and_without_one_none_is():
    nets, params, stats = make("v3", drop_path=0.5)
    plain, views = make("v3")[0], batch(12, 12)

    @jax.jit
    def features(key):
        return nets.features(params, stats, views, (0, 1), key)[0]

    first, again, other = (features(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    without = jax.jit(lambda: nets.features(params, stats, views, (0, 1))[0])()
    expected = jax.jit(lambda: plain.features(params, stats, views, (0, 1))[0])()
    np.testing.assert_array_equal(without, expected)
