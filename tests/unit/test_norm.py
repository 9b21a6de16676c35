"""BatchNorm in groups: statistics, devices, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moco_jax.models.norm import BatchNorm
from tests.networks import images, init, make_small, shapes


def renewed(net, variables, x):
    return net.apply(variables, x, train=True, mutable=["batch_stats"])


def test_statistics_change_in_training_only():
    net, x = BatchNorm(2), images(8, 3)
    variables = net.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros((2, 3)))
    _, same = net.apply(variables, x, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])
    assert np.abs(renewed(net, variables, x)[1]["batch_stats"]["mean"]).min() > 0


def test_evaluation_averages_any_number_of_groups():
    x = images(8, 3)
    variables = {"batch_stats": {"mean": images(4, 3), "var": 1 + images(4, 3) ** 2}}
    nets = [BatchNorm(g, use_scale=False, use_bias=False) for g in (4, 1)]
    a, b = (net.apply(variables, x[:5], train=False) for net in nets)
    np.testing.assert_array_equal(a, b)
    stats = variables["batch_stats"]
    want = (x[:5] - stats["mean"].mean(0, keepdims=True)) / np.sqrt(
        stats["var"].mean(0, keepdims=True) + 1e-5
    )
    np.testing.assert_allclose(a, want, rtol=1e-5, atol=1e-6)


def compile_sharded(net, variables, x, stats_spec):
    """A training forward pass, its batch over all devices; `stats_spec` places the statistics."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    place = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))  # noqa: E731
    placed = {"params": place(), "batch_stats": place(*stats_spec)}
    outputs = (place("data"), {"batch_stats": place(*stats_spec)})
    forward = jax.jit(
        lambda v, x: renewed(net, v, x), in_shardings=(placed, place("data")), out_shardings=outputs
    )
    return forward.lower(variables, x).compile()


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


@pytest.mark.parametrize("groups", [1, 2, 8, 16])
def test_groups_over_devices(groups):
    """Eight devices give what one gives; 1e-5 is float32's rounding in another order of sums."""
    net, x = BatchNorm(groups), images(16, 4, 4, 5)
    variables = init(net, x)
    run = compile_sharded(net, variables, x, ("data",) if groups % 8 == 0 else ())
    want, got = renewed(net, variables, x), run(variables, x)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, got, want)
    # One group is of the global batch, and has to communicate.
    assert any(c in run.as_text() for c in COLLECTIVES) == (groups < 8)


def test_grouped_resnet_needs_no_communication():
    net, x = make_small("resnet", groups=8), images(16, 16, 16, 3)
    variables = shapes(net, *x.shape)[1]
    text = compile_sharded(net, variables, x, ("data",)).as_text()
    assert [c for c in COLLECTIVES if c in text] == []


def gradient_in_float64(x, g, scale):
    """Of a BatchNorm's input, (G, n, C), by the usual formula, and what comes out."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    deviation = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    normal = (x - x.mean(1, keepdims=True)) / deviation
    inner = g - g.mean(1, keepdims=True) - normal * (g * normal).mean(1, keepdims=True)
    return normal * scale, scale / deviation * inner


@pytest.mark.parametrize(("offset", "near"), [(0.0, 0.0), (3.0, 0.0), (50.0, 48.0), (1000.0, 1001)])
def test_narrow_types_are_read_once(offset, near):
    """bfloat16 in and out, moments in float32: one unit of bfloat16; the statistics 1e-5.

    Means of up to 1,000 deviations, the running one within a few of them or the first one, 0.
    """
    net, rng = BatchNorm(2, dtype=jnp.bfloat16), np.random.default_rng(0)
    x = jnp.asarray(offset + rng.normal(size=(16, 8, 8, 3)) * (1 + offset / 100), jnp.bfloat16)
    g, scale = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16), rng.uniform(0.5, 2, 3)
    variables = {
        "params": {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.full((2, 3), float(near)), "var": jnp.ones((2, 3))},
    }
    y, pull, new = jax.vjp(partial(renewed, net, variables), x, has_aux=True)
    assert y.dtype == jnp.bfloat16
    values, weights = (np.asarray(v, np.float32).reshape(2, 512, 3) for v in (x, g))
    want, slope = gradient_in_float64(values, weights, scale)
    for got, reference in ((y, want), (pull(g)[0], slope)):
        got = np.asarray(got, np.float64).reshape(2, 512, 3)
        np.testing.assert_allclose(got, reference, rtol=2**-8, atol=2**-8 * np.abs(reference).max())
    stats, values = new["batch_stats"], values.astype(np.float64)
    mean, var = values.mean(1), values.var(1, ddof=1)
    np.testing.assert_allclose(stats["mean"], 0.9 * near + 0.1 * mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_a_constant_channel_is_zero_in_narrow_types_too():
    x = jnp.full((4, 5), 3.140625, jnp.bfloat16)
    variables = BatchNorm(dtype=jnp.bfloat16).init(jax.random.key(0), x, train=True)
    y, new = renewed(BatchNorm(dtype=jnp.bfloat16), variables, x)
    assert np.abs(np.asarray(y, np.float32)).max() < 2**-8
    assert (new["batch_stats"]["var"] >= 0).all()


def test_batch_norm_errors():
    with pytest.raises(ValueError, match="3 BatchNorm groups do not divide a batch of 8"):
        shapes(BatchNorm(3), 8, 5, train=True)
    variables = init(BatchNorm(8), images(8, 5))
    with pytest.raises(ValueError, match="two values per channel and group"):
        renewed(BatchNorm(8), variables, images(8, 5))
