"""BatchNorm with groups against torch.nn.BatchNorm2d for each group, and NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from moco_jax.models.norm import BatchNorm

pytestmark = pytest.mark.parity


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_norms(groups, channels):
    """One BatchNorm for each group, all with the same random scale and offset."""
    norms = [torch.nn.BatchNorm2d(channels) for _ in range(groups)]
    for norm in norms:
        norm.weight.data = torch.from_numpy(1 + 0.3 * normal(channels, seed=1))
        norm.bias.data = torch.from_numpy(normal(channels, seed=2))
    return norms


def params_of(norm):
    return {"scale": norm.weight.detach().numpy(), "bias": norm.bias.detach().numpy()}


def to_torch(x, groups):
    return [torch.from_numpy(part.transpose(0, 3, 1, 2).copy()) for part in np.split(x, groups)]


def from_torch(parts):
    return np.concatenate([part.detach().numpy().transpose(0, 2, 3, 1) for part in parts])


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_several_steps(groups):
    """Outputs, gradients and running statistics: 1e-5, a few roundings of float32."""
    norms, ours = torch_norms(groups, 5), BatchNorm(groups)
    params = params_of(norms[0])
    stats = ours.init(jax.random.key(0), normal(1, 4, 3, 5), train=False)["batch_stats"]

    @jax.jit
    def step(params, stats, x, dy):
        def forward(params, x):
            variables = {"params": params, "batch_stats": stats}
            return ours.apply(variables, x, train=True, mutable=["batch_stats"])

        y, pullback, new = jax.vjp(forward, params, x, has_aux=True)
        return y, pullback(dy), new["batch_stats"]

    for seed in range(5):
        x = 3 * normal(12, 4, 3, 5, seed=seed) + seed
        dy = normal(12, 4, 3, 5, seed=seed + 10)
        y, (dparams, dx), stats = step(params, stats, x, dy)
        inputs = [part.requires_grad_() for part in to_torch(x, groups)]
        outputs = [norm(part) for norm, part in zip(norms, inputs)]
        for norm, output, gradient in zip(norms, outputs, to_torch(dy, groups)):
            norm.zero_grad()
            output.backward(gradient)
        np.testing.assert_allclose(y, from_torch(outputs), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dx, from_torch([x.grad for x in inputs]), rtol=1e-5, atol=1e-5)
        dscale = sum(norm.weight.grad.numpy() for norm in norms)
        dbias = sum(norm.bias.grad.numpy() for norm in norms)
        # sums of 144 terms of size 1
        np.testing.assert_allclose(dparams["scale"], dscale, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(dparams["bias"], dbias, rtol=1e-5, atol=1e-4)
    mean = np.stack([norm.running_mean.numpy() for norm in norms])
    var = np.stack([norm.running_var.numpy() for norm in norms])
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-5, atol=1e-5)

    merged = torch_norms(1, 5)[0].eval()
    merged.running_mean, merged.running_var = (
        torch.from_numpy(mean.mean(0)),
        torch.from_numpy(var.mean(0)),
    )
    x = normal(7, 4, 3, 5, seed=99)  # a batch that the groups need not divide
    got = ours.apply({"params": params, "batch_stats": stats}, x, train=False)
    want = from_torch([merged(to_torch(x, 1)[0])])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 7), (12, 5, 7), (12, 3, 2, 7)])
@pytest.mark.parametrize("groups", [1, 3])
def test_against_float64(shape, groups):
    x = (10 ** normal(*shape)).astype(np.float32)
    ours = BatchNorm(groups, use_scale=False, use_bias=False)
    variables = ours.init(jax.random.key(0), x, train=False)
    y, new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    grouped = x.astype(np.float64).reshape(groups, -1, 7)
    mean = grouped.mean(1, keepdims=True)
    want = (grouped - mean) / np.sqrt(grouped.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want.reshape(shape), rtol=1e-5, atol=1e-5)
    stats = new["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean[:, 0], rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * grouped.var(1, ddof=1), rtol=1e-5)


def test_variance_does_not_cancel():
    """Mean 1000, deviation 0.1: E[x^2] - mean^2 in float32 is off by more than the variance.

    The input is rounded to multiples of 6e-5 already, so float64 starts from the same values; the
    mean is off by up to as much, which is 1e-3 of the deviation.
    """
    x = (1000 + 0.1 * normal(64, 8, 8, 3)).astype(np.float32)
    ours = BatchNorm()
    variables = ours.init(jax.random.key(0), x, train=False)
    y, new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = x.astype(np.float64)
    want = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, want, atol=2e-3)
    want_var = 0.9 + 0.1 * wide.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["batch_stats"]["var"][0], want_var, rtol=1e-5)


def test_bfloat16_input_has_float32_statistics():
    """Against float64 on the rounded input; only the output is rounded, by 2^-8 at most."""
    x = jnp.asarray(5 + normal(256, 4, 4, 3), jnp.bfloat16)
    ours = BatchNorm(dtype=jnp.bfloat16)
    variables = ours.init(jax.random.key(0), x, train=False)
    y, new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=2**-8, atol=1e-5)
    stats = new["batch_stats"]
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"][0], 0.1 * wide.mean((0, 1, 2)), rtol=1e-6)
