"""SwAV's assignments and loss against NumPy and PyTorch in float64.

The reference scales exponentials, as the paper and the authors' code do; ours scales logarithms.
Tolerances are relative to the largest value: 1e-5, as in test_losses; of assignments 3e-5, as
float32 scores of 20 (a cosine of 1 at epsilon 0.05) are rounded to 1e-6 and then exponentiated.
"""

from functools import partial

import jax
import numpy as np
import pytest
import torch

from moco_jax.ops.sinkhorn import sinkhorn, swapped_prediction

pytestmark = pytest.mark.parity
B, C, P = 16, 12, 10
assign = jax.jit(sinkhorn, static_argnums=(1, 2))


def unit_rows(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def reference_assignments(scores, epsilon, iterations):
    """Algorithm 1 of the paper, of which ours has rows for columns."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * len(q)
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
@pytest.mark.parametrize("shape", [(B, P), (3, 40), (40, 1), (1, 5)])
def test_sinkhorn(shape, epsilon, iterations):
    scores = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    got = np.asarray(assign(scores, epsilon, iterations))
    assert_close(got, reference_assignments(scores, epsilon, iterations), 3e-5)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    if iterations == 50 and shape == (B, P):  # converged: prototypes too have equal shares
        np.testing.assert_allclose(got.sum(0), B / P, rtol=1e-2)


def test_sinkhorn_leaves_out_rows_that_do_not_count():
    scores = np.random.default_rng(0).uniform(-1, 1, (B, P)).astype(np.float32)
    counted = np.arange(B) % 3 > 0
    got = np.asarray(assign(scores, 0.05, 3, counted))[counted]
    assert_close(got, reference_assignments(scores[counted], 0.05, 3), 3e-5)


def reference_loss(features, prototypes, full, temperature, queue):
    """SwAV's training loop over crops, with the features of a queue before those of the batch."""
    scores = [f @ prototypes.T for f in features]
    total = 0.0
    for a in range(full):
        with torch.no_grad():
            rows = scores[a] if queue is None else torch.cat([queue[a] @ prototypes.T, scores[a]])
            q = torch.from_numpy(reference_assignments(rows, 0.05, 3)[-len(scores[a]) :])
        others = [v for v in range(len(features)) if v != a]
        for v in others:
            log_p = torch.log_softmax(scores[v] / temperature, dim=1)
            total -= (q * log_p).sum(1).mean() / len(others)
    return total / full


@pytest.mark.parametrize("queued", [0, 1, 24])
@pytest.mark.parametrize(("views", "full"), [(2, 2), (8, 2), (3, 1), (5, 3)])
def test_loss_of_crops(views, full, queued):
    """Loss and gradients of features and prototypes; no gradient through the assignments."""
    features, prototypes = unit_rows(0, views, B, C), unit_rows(1, P, C)
    queue = unit_rows(2, full, queued, C) if queued else None
    tensors = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (features, prototypes)
    ]
    in_queue = None if queue is None else torch.tensor(queue, dtype=torch.float64)
    want = reference_loss(*tensors, full, 0.1, in_queue)
    want.backward()

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(features, prototypes):
        scores = features @ prototypes.T
        rows = scores[:full]
        if queue is not None:
            rows = jax.numpy.concatenate([queue @ prototypes.T, rows], axis=1)
        targets = jax.vmap(lambda rows: sinkhorn(rows, 0.05, 3)[-B:])(rows)
        return swapped_prediction(scores, jax.lax.stop_gradient(targets), 0.1)

    value, grads = loss(features, prototypes)
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    for got, tensor in zip(grads, tensors):
        assert_close(got, tensor.grad.numpy(), 1e-4)  # of assignments, whose error is 3e-5
