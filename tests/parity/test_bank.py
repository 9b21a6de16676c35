"""The memory bank's update and NCE against NumPy in float64, written as the paper's equations.

1e-5 of the largest value, as in test_losses.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.ops.bank import bank_logits, draw_rows, log_partition, nce, renewed_rows

pytestmark = pytest.mark.parity
B, C, N, K = 6, 8, 40, 25


def unit_rows(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def assert_close(actual, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def update(bank, index, features, momentum):
    rows, values = renewed_rows(bank, index, features, momentum)
    return bank.at[rows].set(values, mode="drop", unique_indices=True)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("index", [[3, 0, 39, 7, 12, 5], [3, 0, 3, 3, 12, 0]])
def test_update(momentum, index):
    """Of an image that comes twice the first counts; other rows keep their bits."""
    bank, features = unit_rows(0, N + 3, C), unit_rows(1, B, C)
    expected = bank.astype(np.float64)
    for i in sorted(set(index), key=index.index):
        row = momentum * bank[i].astype(np.float64) + (1 - momentum) * features[index.index(i)]
        expected[i] = row / np.linalg.norm(row)
    got = np.asarray(jax.jit(update)(bank, np.int32(index), features, momentum))
    assert_close(got, expected)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)
    untouched = np.setdiff1d(np.arange(N + 3), index)
    np.testing.assert_array_equal(got[untouched], bank[untouched])


def reference(q, own, drawn, temperature, log_z=None):
    """Equations 4 to 7 with exponentials: (loss, top1, ln Z)."""
    positive = np.exp(np.sum(q * own, axis=1) / temperature)
    negative = np.exp(q @ drawn.T / temperature)
    mean = np.concatenate([positive[:, None], negative], 1).mean()
    z = N * mean if log_z is None else np.exp(log_z)
    noise = K / N
    first = np.log((positive / z) / (positive / z + noise))
    rest = np.log(noise / (negative / z + noise))
    return -(first + rest.sum(1)).mean(), np.mean(positive > negative.max(1)), np.log(z)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("noise", [0.3, 30.0])
@pytest.mark.parametrize("log_z", [None, 3.5])
def test_nce(temperature, noise, log_z):
    """With the constant estimated from this batch, and with one that is kept; and its gradient
    against differences, with the constant a constant."""
    own, drawn = unit_rows(0, B, C), unit_rows(1, K, C)
    q = own + noise * unit_rows(2, B, C)
    q = (q / np.linalg.norm(q, axis=1, keepdims=True)).astype(np.float32)

    def loss(q, log_z):
        logits = bank_logits(q, own, drawn, temperature)
        z = log_partition(*logits, N) if log_z is None else jnp.float32(log_z)
        value, top1 = nce(*logits, jax.lax.stop_gradient(z), N)
        return value, (top1, z)

    (value, (top1, z)), grad = jax.jit(jax.value_and_grad(lambda q: loss(q, log_z), has_aux=True))(
        q
    )
    arrays = [x.astype(np.float64) for x in (q, own, drawn)]
    want, want_top1, want_z = reference(*arrays, temperature, log_z)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(z, want_z, rtol=1e-6, atol=1e-6)
    assert top1 == pytest.approx(want_top1)
    direction, step = np.random.default_rng(3).normal(size=q.shape), 1e-6
    ahead, behind = (
        reference(arrays[0] + sign * step * direction, *arrays[1:], temperature, want_z)[0]
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(np.sum(grad * direction), slope, rtol=1e-4)


def test_draws_are_uniform_over_the_images():
    """Against a chi-squared of N - 1 = 39 degrees, whose 0.999 quantile is 73."""
    rows = np.asarray(jax.jit(draw_rows, static_argnums=(1, 2))(jax.random.key(0), 8000, N))
    counts = np.bincount(rows, minlength=N)
    assert len(counts) == N
    assert np.sum((counts - 200) ** 2 / 200) < 73
