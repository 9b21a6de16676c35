"""Weights of whole models: into ours with equal outputs, and back with equal bits.

float32 on both sides; 1e-4 is some hundred roundings, which is what 50 layers accumulate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import traverse_util
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from timm.models.vision_transformer import VisionTransformer
from torchvision import models as torch_models

from moco_jax import convert, models
from tests.parity import torch_moco
from tests.parity.torch_weights import nchw, randomize, relative_error

pytestmark = pytest.mark.parity

SIZE = 64  # pixels: the widths are what is full size here


class ConvStem(nn.Module):
    """Of arXiv:2106.14881, under MoCo v3's names: one Sequential called `proj`."""

    def __init__(self, width):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (width // 8, width // 4, width // 2, width):
            conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, width, 1))

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def vit(width, depth=12, conv=False, classes=10):
    model = VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=width, depth=depth, num_heads=12,
        num_classes=classes,
    )  # fmt: skip
    if conv:
        model.patch_embed.proj = ConvStem(width).proj
    randomize(model, 0)
    nn.init.normal_(model.cls_token)
    model.pos_embed.data = torch_moco.sincos(model)
    return model


def resnet(depth):
    return randomize(getattr(torch_models, f"resnet{depth}")(num_classes=10), depth)


MODELS = {
    "resnet18": lambda: resnet(18),
    "resnet50": lambda: resnet(50),
    "vit_small": lambda: vit(384),
    "vit_base": lambda: vit(768),
    "vit_conv_small": lambda: vit(384, depth=11, conv=True),
}


def with_counts(model):
    """Counts of batches that are not those of a new model."""
    for i, (name, buffer) in enumerate(model.named_buffers()):
        if name.endswith("num_batches_tracked"):
            buffer.fill_(1000 + i)
    return model


def variables_of(contents):
    """The backbone's variables for flax."""
    out = {}
    for collection, prefix in (("params", "params"), ("batch_stats", "method_state/stats")):
        prefix += "/backbone/"
        leaves = {
            n.removeprefix(prefix): x for n, x in contents.leaves.items() if n.startswith(prefix)
        }
        leaves = {n: x for n, x in leaves.items() if not n.endswith("/count")}
        out[collection] = traverse_util.unflatten_dict(leaves, sep="/")
    return out


def features(contents, images):
    c = contents.config
    ours = models.make_backbone(c.model, c.data.image_size, 1, jnp.dtype("float32"))
    return jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables_of(contents), images)


def torch_features(model, images):
    top = "fc" if hasattr(model, "fc") else "head"
    last = getattr(model, top)
    setattr(model, top, nn.Identity())
    with torch.no_grad():
        out = model.eval()(nchw(images)).numpy()
    setattr(model, top, last)
    return out


def images():
    return np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def assert_same(got, want):
    """Names in order, shapes, dtypes and bits."""
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype), name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("name", MODELS)
def test_in_with_equal_outputs_and_back_with_equal_bits(name, tmp_path):
    model = with_counts(MODELS[name]())
    want = model.state_dict()
    torch.save(want, tmp_path / "there.pth")
    contents = convert.read(tmp_path / "there.pth", arch=name)
    contents.config.data.image_size = SIZE
    x = images()
    assert relative_error(features(contents, x), torch_features(model, x)) < 1e-4

    # By way of a workdir of ours, into each kind of file.
    convert.write(tmp_path / "ours", contents, "ours")
    back = convert.read(tmp_path / "ours")
    convert.write(tmp_path / "back.pth", back)
    convert.write(tmp_path / "back.safetensors", back)
    for weights_only in (True, False):
        assert_same(torch.load(tmp_path / "back.pth", weights_only=weights_only), want)
    assert_same(torch.load(tmp_path / "back.pth", mmap=True), want)
    loaded = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert_same({key: loaded[key] for key in want}, want)
    model.load_state_dict(loaded)
