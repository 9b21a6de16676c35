"""Effective rank, alignment and uniformity against PyTorch in float64, as their papers write them.

1e-9: both are float64 and differ in the order of sums and in the algorithm of the SVD.
"""

import numpy as np
import pytest
import torch

from moco_jax.ops.representation import alignment, rank_me, uniformity

pytestmark = pytest.mark.parity


def features(kind, n=200, f=24):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, f))
    return {
        "full rank": x,
        "few directions": x[:, :3] @ rng.normal(size=(3, f)),
        "one direction": np.outer(x[:, 0], x[0]),
        "all alike": np.ones((n, f)),
        "fewer images than features": x[:10],
        "large and far away": 1e4 + 1e3 * x,
        "small": 1e-6 * x,
    }[kind]


KINDS = (
    "full rank", "few directions", "one direction", "all alike", "fewer images than features",
    "large and far away", "small",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rank_me(kind):
    x = features(kind)
    values = torch.linalg.svdvals(torch.from_numpy(x))
    p = values / values.abs().sum() + 1e-7
    assert rank_me(x) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-6)
    assert 0.99 <= rank_me(x) <= min(x.shape) + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_and_uniformity(kind):
    x, y = features(kind), features(kind)[::-1].copy()
    a, b = (torch.nn.functional.normalize(torch.from_numpy(z), dim=1) for z in (x, y))
    want = (a - b).norm(dim=1).pow(2).mean()
    assert alignment(x, y) == pytest.approx(float(want), rel=1e-9, abs=1e-12)
    want = torch.pdist(a).pow(2).mul(-2).exp().mean().log()
    assert uniformity(x) == pytest.approx(float(want), rel=1e-7, abs=1e-9)


def test_their_ends():
    x = np.eye(8)
    assert rank_me(x) == pytest.approx(8, rel=1e-4)
    assert rank_me(np.zeros((4, 3))) == 0.0
    assert alignment(x, x) == 0.0
    assert alignment(x, -x) == pytest.approx(4.0)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-12)
