"""Heads against torch.nn.Sequential on copied weights, in training and in evaluation mode.

float32 on both sides, a few layers: 1e-5 of the largest value. Gradients cross a BatchNorm of 16
examples for each layer: 1e-4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from moco_jax import config
from moco_jax.models.heads import make_head
from tests.parity.torch_weights import convert, gradients, largest_error, randomize, relative_error

pytestmark = pytest.mark.parity

FEATURES, HIDDEN, OUT = 48, 64, 24


def linear_bn_relu(inputs, outputs):
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


HEADS = {
    "v1": ({"layers": 1}, [nn.Linear(FEATURES, OUT)]),
    "v2": ({"layers": 2}, [nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)]),
    "v2 hidden as wide as the input": (
        {"layers": 2, "hidden": 0},
        [nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, OUT)],
    ),
    "v3 projector": (
        {"layers": 3, "bias": False, "bn": True, "last_bn": True},
        [
            *linear_bn_relu(FEATURES, HIDDEN),
            *linear_bn_relu(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, OUT, bias=False),
            nn.BatchNorm1d(OUT, affine=False),
        ],
    ),
    "v3 predictor of a ResNet": (
        {"layers": 2, "bias": False, "bn": True},
        [*linear_bn_relu(FEATURES, HIDDEN), nn.Linear(HIDDEN, OUT, bias=False)],
    ),
    "BN after the last layer only": (
        {"layers": 2, "last_bn": True},
        [
            nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT),
            nn.BatchNorm1d(OUT, affine=False),
        ],
    ),
}  # fmt: skip


def renames(layers):
    """From a position in nn.Sequential to the name of the layer: a BatchNorm bears the number of
    the linear layer before it."""
    count, table = 0, []
    for position, layer in enumerate(layers):
        count += isinstance(layer, nn.Linear)
        kind = "fc" if isinstance(layer, nn.Linear) else "bn"
        table.append((rf"^{position}\.", f"{kind}{count}."))
    return table


@pytest.mark.parametrize("name", HEADS)
def test_head(name):
    record, layers = HEADS[name]
    model, table = randomize(nn.Sequential(*layers), 0), renames(layers)
    ours = make_head(config.mlp(**{"hidden": HIDDEN, "out": OUT} | record), 1, jnp.float32)
    variables = convert(model.state_dict(), table)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, FEATURES)).astype(np.float32)
    weights = rng.normal(size=(16, OUT)).astype(np.float32)

    want = model.eval()(torch.from_numpy(x)).detach()
    assert relative_error(ours.apply(variables, x, train=False), want) < 1e-5

    def loss(params):
        inputs = {**variables, "params": params}
        y, new = ours.apply(inputs, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y * weights), (y, new)

    grads, (got, new) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    want = model.train()(torch.from_numpy(x))
    (want * torch.from_numpy(weights)).sum().backward()
    assert relative_error(got, want.detach()) < 1e-5
    after = convert(model.state_dict(), table)["batch_stats"]
    assert largest_error(new.get("batch_stats", {}), after) < 1e-5
    assert largest_error(grads, gradients(model, table)) < 1e-4
