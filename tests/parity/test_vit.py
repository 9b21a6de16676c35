"""ViT against timm's on copied weights, and the position embedding against NumPy float64.

float32 on both sides; 1e-4 is some hundred roundings, which is what twelve blocks accumulate.
"""

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.layers import drop
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moco_jax import config, models
from moco_jax.models.tokens import sincos_position
from tests.parity.torch_weights import (
    RENAMES,
    convert,
    gradients,
    largest_error,
    nchw,
    randomize,
    relative_error,
)

pytestmark = pytest.mark.parity


def sincos(rows, columns, features):
    """One entry after the other, in float64."""
    quarter = features // 4
    table = np.zeros((rows * columns, features))
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                omega = 1 / 10000 ** (i / quarter)
                entry = table[row * columns + column]
                entry[i] = math.sin(row * omega)
                entry[quarter + i] = math.cos(row * omega)
                entry[2 * quarter + i] = math.sin(column * omega)
                entry[3 * quarter + i] = math.cos(column * omega)
    return table


class TokenBatchNorm(nn.BatchNorm1d):
    def __init__(self, features, **_):
        super().__init__(features)

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TorchConvStem(nn.Module):
    def __init__(self, features):
        super().__init__()
        channels = 3
        for i, divisor in enumerate((8, 4, 2, 1), 1):
            conv = nn.Conv2d(channels, features // divisor, 3, stride=2, padding=1, bias=False)
            channels = features // divisor
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
        self.proj = nn.Conv2d(channels, features, 1)

    def forward(self, x):
        for i in range(1, 5):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        return self.proj(x).flatten(2).transpose(1, 2)


def timm_vit(width, depth, heads, size=(64, 64), stem="patch", position="sincos", **options):
    model = VisionTransformer(
        img_size=size, patch_size=16, embed_dim=width, depth=depth, num_heads=heads,
        num_classes=0, **options,
    )  # fmt: skip
    if stem == "conv":
        model.patch_embed = TorchConvStem(width)
    model = randomize(model, depth)
    if position != "learned":
        table = sincos(size[0] // 16, size[1] // 16, width) * (position == "sincos")
        table = np.pad(table, ((model.pos_embed.shape[1] - len(table), 0), (0, 0)))
        model.pos_embed = nn.Parameter(torch.from_numpy(table[None]).float(), requires_grad=False)
    return model


def variables_of(model, stem="patch", position="sincos"):
    state = model.state_dict()
    if position != "learned":
        del state["pos_embed"]
    # In a conv stem, 'patch_embed.proj' is a layer of its own.
    return convert(state, RENAMES[:-1] if stem == "conv" else RENAMES)


def make_ours(name="vit_tiny", **record):
    options = config.default().model
    options.name = name
    options.vit.update(record)
    return models.make_backbone(options, 64, 1, jnp.dtype("float32"))


def images(height, width):
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)


def evaluation_error(model, ours, variables, x):
    want = model.eval()(nchw(x)).detach()
    got = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    return relative_error(got, want)


@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (1, 2)])
def test_sincos_position(grid):
    # The table is float64 rounded once to float32.
    np.testing.assert_allclose(sincos_position(*grid, 96)[0], sincos(*grid, 96), atol=6e-8)


@pytest.mark.parametrize(("name", "width"), [("vit_small", 384), ("vit_base", 768)])
def test_moco_v3(name, width):
    model = timm_vit(width, 12, 12)
    assert evaluation_error(model, make_ours(name), variables_of(model), images(64, 64)) < 1e-4


def test_small_with_the_heads_of_timm():
    model = timm_vit(384, 12, 6)
    ours = make_ours("vit_small", heads=6)
    assert evaluation_error(model, ours, variables_of(model), images(64, 64)) < 1e-4


@pytest.mark.parametrize("position", ["sincos", "learned", "none"])
@pytest.mark.parametrize("pool", ["cls", "avg_norm", "avg"])
def test_position_and_pool(position, pool):
    options = {"global_pool": "token" if pool == "cls" else "avg", "class_token": pool == "cls"}
    options |= {"fc_norm": False, "final_norm": pool != "avg"}
    model = timm_vit(64, 2, 4, size=(64, 96), position=position, **options)
    ours = make_ours(width=64, depth=2, heads=4, position=position, pool=pool)
    variables = variables_of(model, position=position)
    assert evaluation_error(model, ours, variables, images(64, 96)) < 1e-4


@pytest.mark.parametrize("record", [{}, {"stem": "conv"}, {"norm": "batch"}])
def test_training(record):
    """Outputs, BatchNorm's running statistics and gradients, in training mode."""
    stem = record.get("stem", "patch")
    options = {"norm_layer": TokenBatchNorm} if record.get("norm") == "batch" else {}
    model = timm_vit(64, 2, 4, stem=stem, **options)
    ours = make_ours(width=64, depth=2, heads=4, **record)
    variables, x = variables_of(model, stem), images(64, 64)
    weights = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)

    def loss(params):
        inputs = {**variables, "params": params}
        y, new = ours.apply(inputs, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y * weights), (y, new)

    grads, (got, new) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    want = model.train()(nchw(x))
    (want * torch.from_numpy(weights)).sum().backward()
    assert relative_error(got, want.detach()) < 1e-4
    after = variables_of(model, stem)["batch_stats"]
    assert bool(after) == bool(record)
    assert largest_error(new.get("batch_stats", {}), after) < 1e-4
    want_grads = gradients(model, RENAMES[:-1] if stem == "conv" else RENAMES)
    assert largest_error(grads, want_grads) < 1e-3


def test_drop_path():
    """In training, with the same images left out: rates, places and scaling of four blocks."""
    model = timm_vit(64, 4, 4, drop_path_rate=0.6)
    ours = make_ours(width=64, depth=4, heads=4, drop_path=0.6)
    masks = np.random.default_rng(0).random((6, 8)) < 0.5  # the first block drops none
    x, torchs, rates = np.tile(images(64, 64), (4, 1, 1, 1)), iter(masks), []

    def drop_torch(branch, rate, training, scale_by_keep):
        assert training
        assert scale_by_keep
        rates.append(rate)
        mask = torch.from_numpy(next(torchs).astype(np.float32)).reshape(-1, 1, 1)
        return branch * mask.div(1 - rate)

    with mock.patch.object(drop, "drop_path", drop_torch):
        want = model.train()(nchw(x)).detach()
    with mock.patch.object(jax.random, "bernoulli", side_effect=masks.reshape(6, 8, 1, 1)) as drawn:
        got = ours.apply(variables_of(model), x, train=True, rngs={"dropout": jax.random.key(0)})
    assert relative_error(got, want) < 1e-4
    np.testing.assert_allclose([call.args[1] for call in drawn.call_args_list], 1 - np.array(rates))
