"""The losses of pairs of views and the spread of features against float64 PyTorch.

Tolerance 1e-5 of the largest value: float32 keeps 7 digits, a sum over some hundred terms
loses one, and a temperature of 0.07 multiplies the rounding of the cosines by 14.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from moco_jax.ops.losses import (
    contrastive_loss,
    feature_std,
    info_nce,
    l2_normalize,
    nt_xent,
    regression,
)

pytestmark = pytest.mark.parity
B, C, K = 24, 128, 300
TOLERANCE = 1e-5

unit = jax.jit(l2_normalize)


def random_features(seed, rows, scale=3.0):
    return (scale * np.random.default_rng(seed).normal(size=(rows, C))).astype(np.float32)


def assert_close(actual, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def torch_normalize(x):
    return torch.nn.functional.normalize(x, dim=1)


def reference(logits, labels, scale, q):
    """Loss, gradient with respect to q and top-1 of a cross entropy over explicit logits."""
    loss = scale * torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    top1 = (logits.argmax(1) == labels).double().mean()
    return loss.item(), q.grad.numpy(), top1.item()


@partial(jax.jit, static_argnums=0)
def ours(loss, q, *others):
    """The same three of ours; q is normalized inside so that its gradient passes through that."""

    def from_features(q):
        return loss(l2_normalize(q), *others)

    (value, top1), grad = jax.value_and_grad(from_features, has_aux=True)(q)
    return value, grad, top1


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("noise", [0.5, 30.0])
def test_info_nce(temperature, noise):
    q = random_features(0, B)
    k = q + noise * random_features(1, B, 1.0)  # near their queries, or hardly
    queue = np.asarray(unit(random_features(2, K)))
    tq, tk, tqueue = (torch.tensor(x, dtype=torch.float64) for x in (q, k, queue))
    tq.requires_grad_()
    unit_q, unit_k = torch_normalize(tq), torch_normalize(tk)
    positive = torch.einsum("bc,bc->b", unit_q, unit_k)[:, None]
    logits = torch.cat([positive, unit_q @ tqueue.T], dim=1) / temperature
    expected = reference(logits, torch.zeros(B, dtype=torch.long), 1.0, tq)
    actual = ours(info_nce, q, unit(k), queue, temperature)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("noise", [0.5, 30.0])
def test_contrastive_loss_of_both_directions(temperature, noise):
    q1, q2 = random_features(0, B), random_features(1, B)
    k1, k2 = (q + noise * random_features(s, B, 1.0) for q, s in ((q1, 2), (q2, 3)))
    for q, k in ((q1, k2), (q2, k1), (q1, k1)):
        tq = torch.tensor(q, dtype=torch.float64, requires_grad=True)
        tk = torch.tensor(k, dtype=torch.float64)
        logits = torch_normalize(tq) @ torch_normalize(tk).T / temperature
        expected = reference(logits, torch.arange(B), 2 * temperature, tq)
        actual = ours(contrastive_loss, q, unit(k), temperature)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)


def test_gradient_with_respect_to_keys():
    """For methods that train through their keys."""
    q, k = random_features(0, B), random_features(1, B)
    tq, tk = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (q, k))
    unit_q, unit_k = torch_normalize(tq), torch_normalize(tk)
    logits = unit_q @ unit_k.T / 0.2
    torch.nn.functional.cross_entropy(logits, torch.arange(B)).backward()

    def loss(k):
        return contrastive_loss(l2_normalize(q), l2_normalize(k), 0.2)[0] / (2 * 0.2)

    assert_close(jax.jit(jax.grad(loss))(k), tk.grad.numpy())


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(("batch", "noise"), [(B, 0.5), (B, 30.0), (2, 1.0)])
def test_nt_xent(temperature, batch, noise):
    """As SimCLR writes it: the 2B features in a row, one of them taken out, the classes' cross
    entropy over the other 2B - 1. The gradient is of both sides."""
    z = random_features(0, batch)
    z = np.stack([z, z + noise * random_features(1, batch, 1.0)])
    tz = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    rows = torch_normalize(tz.reshape(2 * batch, C))
    others = ~torch.eye(2 * batch, dtype=torch.bool)
    logits = (rows @ rows.T / temperature)[others].reshape(2 * batch, -1)
    # Behind its own place, an index falls by one.
    labels = torch.tensor([i + batch - 1 if i < batch else i - batch for i in range(2 * batch)])
    expected = reference(logits, labels, 1.0, tz)

    def both_sides(z, temperature):
        return nt_xent(z, z, temperature)

    for a, e in zip(ours(both_sides, z, temperature), expected, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("noise", [1e-4, 0.5, 30.0])
def test_regression(noise):
    q = random_features(0, B)
    k = q + noise * random_features(1, B, 1.0)
    tq, tk = (torch.tensor(x, dtype=torch.float64) for x in (q, unit(k)))
    loss = (2 - 2 * torch.nn.functional.cosine_similarity(tq.requires_grad_(), tk)).mean()
    loss.backward()
    value, grad = jax.jit(jax.value_and_grad(lambda q: regression(l2_normalize(q), unit(k))))(q)
    # At a noise of 1e-4 the cosines themselves are within 1e-9 of 1, and the keys float32.
    tolerance = 1e-2 if noise < 1e-3 else TOLERANCE
    assert_close(value, loss.item(), tolerance)
    assert_close(grad, tq.grad.numpy(), tolerance)


def test_gradient_of_vanishing_features_is_pytorchs():
    """At zero, and where the length is below the bound of 1e-12."""
    x = np.zeros((3, C), np.float32)
    x[1, 0], x[2, :] = 1e-15, 1e-3
    weights = random_features(0, 3)
    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (torch_normalize(tx) * torch.tensor(weights)).sum().backward()
    grad = jax.jit(jax.grad(lambda x: jnp.sum(l2_normalize(x) * weights)))(x)
    for a, e in zip(grad, tx.grad.numpy(), strict=True):
        assert_close(a, e)
    assert_close(unit(x), torch_normalize(tx).detach().numpy())


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
def test_feature_std(offset):
    """From isotropic features to all but collapsed ones, where float32 cancels: 1e-4 there."""
    z = random_features(0, B) + np.float32(offset)
    unit = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    expected = np.sqrt(C) * np.mean(np.sqrt(np.mean((unit - unit.mean(0)) ** 2, axis=0)))
    assert_close(jax.jit(feature_std)(z), expected, 1e-4 if offset == 100 else TOLERANCE)
