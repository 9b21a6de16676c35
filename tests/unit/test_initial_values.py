"""Initial values of backbones and heads, by their laws."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax import config
from moco_jax.models.heads import make_head
from moco_jax.models.resnet import ResNet
from tests.networks import images, init, make_small


def assert_uniform(x, bound):
    """In [-bound, bound], filling it, with a mean and deviation within five standard errors."""
    x = np.asarray(x, np.float64).ravel()
    assert np.abs(x).max() <= bound * (1 + 1e-6)
    assert np.abs(x).max() > bound * 0.9
    deviation = bound / math.sqrt(3)
    assert abs(x.mean()) < 5 * deviation / math.sqrt(x.size)
    assert abs(x.std() / deviation - 1) < 5 * math.sqrt(0.2 / x.size)


def assert_normal(x, deviation):
    """Mean and deviation within five standard errors, and tails that are not cut."""
    x = np.asarray(x, np.float64).ravel()
    assert abs(x.mean()) < 5 * deviation / math.sqrt(x.size)
    assert abs(x.std() / deviation - 1) < 5 * math.sqrt(0.5 / x.size)
    assert np.abs(x).max() > 2.3 * deviation or x.size < 500


@pytest.mark.parametrize("zero", [False, True])
def test_resnet_init(zero):
    net = ResNet(stages=(1, 1), bottleneck=True, width=1 / 4, zero_init_residual=zero)
    variables = init(net, images(2, 32, 32, 3))
    params = variables["params"]
    block = params["layer2_0"]
    assert_normal(params["conv1"]["kernel"], math.sqrt(2 / (49 * 16)))
    assert_normal(block["conv2"]["kernel"], math.sqrt(2 / (9 * 32)))
    assert_normal(block["downsample_conv"]["kernel"], math.sqrt(2 / 128))
    scales = {"bn1": 1, "bn2": 1, "bn3": 0 if zero else 1, "downsample_bn": 1}
    for name, scale in scales.items():
        np.testing.assert_array_equal(block[name]["scale"], scale)
        np.testing.assert_array_equal(block[name]["bias"], 0)
    stats = variables["batch_stats"]["layer2_0"]["bn3"]
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_vit_init(channels):
    net = make_small("vit", position="learned", width=128)
    params = init(net, images(2, 64, 64, channels))["params"]
    block = params["blocks_0"]
    assert_uniform(params["patch_embed"]["kernel"], math.sqrt(6 / (channels * 256 + 128)))
    assert_uniform(block["attn"]["qkv"]["kernel"], math.sqrt(6 / (128 + 128)))
    assert_uniform(block["attn"]["proj"]["kernel"], math.sqrt(6 / (128 + 128)))
    assert_uniform(block["mlp"]["fc1"]["kernel"], math.sqrt(6 / (128 + 512)))
    assert_uniform(block["mlp"]["fc2"]["kernel"], math.sqrt(6 / (128 + 512)))
    for layer in (params["patch_embed"], *block["attn"].values(), *block["mlp"].values()):
        np.testing.assert_array_equal(layer["bias"], 0)
    assert_normal(params["cls_token"], 1e-6)
    assert_normal(params["pos_embed"], 0.02)


def test_conv_stem_init():
    params = init(make_small("vit", stem="conv", width=128), images(2, 32, 32, 3))["params"]
    stem = params["patch_embed"]
    assert_uniform(stem["conv2"]["kernel"], 1 / math.sqrt(9 * 16))
    assert_uniform(stem["proj"]["kernel"], 1 / math.sqrt(128))
    assert_uniform(stem["proj"]["bias"], 1 / math.sqrt(128))
    assert "bias" not in stem["conv2"]


def test_head_init():
    head = make_head(config.mlp(hidden=300, out=200), 1, jnp.float32)
    params = init(head, images(2, 50))["params"]
    assert_uniform(params["fc1"]["kernel"], 1 / math.sqrt(50))
    assert_uniform(params["fc1"]["bias"], 1 / math.sqrt(50))
    assert_uniform(params["fc2"]["kernel"], 1 / math.sqrt(300))
    assert_uniform(params["fc2"]["bias"], 1 / math.sqrt(300))
