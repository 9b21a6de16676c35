"""ResNet against torchvision's on copied weights.

float32 on both sides; 1e-4 is some hundred roundings, which is what 50 layers accumulate.
Parameter gradients pass all layers twice, and the BatchNorm of a small batch: 5e-4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import models as torch_models
from torchvision.models import feature_extraction

from moco_jax import config, models
from tests.parity.torch_weights import (
    convert,
    gradients,
    largest_error,
    nchw,
    randomize,
    relative_error,
)

pytestmark = pytest.mark.parity


def pair(depth, **record):
    model = randomize(getattr(torch_models, f"resnet{depth}")(), depth)
    model.fc = torch.nn.Identity()
    # As in a trained network, the branches add less than the trunk carries. At full scale random
    # ones amplify roundings: torchvision's own float32 then ends 7e-5 from its float64.
    for block in model.modules():
        if hasattr(block, "downsample"):
            getattr(block, "bn3", block.bn2).weight.data *= 0.3
    if record.get("stem") == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    options = config.default().model
    options.name = f"resnet{depth}"
    options.resnet.update(record)
    ours = models.make_backbone(options, 64, 1, jnp.dtype("float32"))
    return model, ours, convert(model.state_dict())


def images(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
@pytest.mark.parametrize("depth", [18, 50])
def test_evaluation(depth, size):
    model, ours, variables = pair(depth)
    x = images(4, *size)
    want = model.eval()(nchw(x)).detach().numpy()
    got = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    assert relative_error(got, want) < 1e-4


@pytest.mark.parametrize("depth", [18, 50])
def test_training(depth):
    model, ours, variables = pair(depth)
    x = images(8, 64, 64)
    want = model.train()(nchw(x)).detach().numpy()
    apply = jax.jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))
    got, new = apply(variables, x)
    assert relative_error(got, want) < 1e-4
    after = convert(model.state_dict())["batch_stats"]
    assert largest_error(new["batch_stats"], after) < 1e-4


@pytest.mark.parametrize("depth", [18, 50])
def test_gradient(depth, monkeypatch):
    """With a smooth activation on both sides.

    Near ReLU's kink a rounding decides whether a gradient passes: torchvision's own float32
    gradients of ResNet-50 then differ by 10% from its float64 ones. With softplus both are
    within 1e-4 of float64.
    """
    monkeypatch.setattr(nn, "relu", jax.nn.softplus)
    model, ours, variables = pair(depth)
    for module in model.modules():
        if hasattr(module, "relu"):
            module.relu = torch.nn.Softplus()
    x = images(8, 32, 32)
    weights = np.random.default_rng(1).normal(size=(8, ours.num_features)).astype(np.float32)

    def loss(params):
        inputs = {**variables, "params": params}
        y, _ = ours.apply(inputs, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y * weights)

    (model.train()(nchw(x)) * torch.from_numpy(weights)).sum().backward()
    got = jax.jit(jax.grad(loss))(variables["params"])
    assert largest_error(got, gradients(model)) < 5e-4


@pytest.mark.parametrize("depth", [18, 50])
def test_stage_maps(depth):
    """C2 to C5, for dense tasks, against what torchvision's stages give."""
    model, ours, variables = pair(depth)
    x = images(2, 64, 96)
    stages = [f"layer{i}" for i in range(1, 5)]
    got = jax.jit(lambda v, x: ours.apply(v, x, train=False, maps=True))(variables, x)
    want = feature_extraction.create_feature_extractor(model.eval(), stages)(nchw(x))
    for stage, ours_map in zip(stages, got, strict=True):
        theirs = want[stage].detach().numpy().transpose(0, 2, 3, 1)
        assert ours_map.shape == theirs.shape
        assert relative_error(ours_map, theirs) < 1e-4


def test_cifar_stem():
    model, ours, variables = pair(18, stem="cifar")
    x = images(4, 32, 32)
    want = model.eval()(nchw(x)).detach().numpy()
    got = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    assert relative_error(got, want) < 1e-4
