"""An encoder in onnxruntime gives what it gives here, for any number of images."""

import sys

import jax
import numpy as np
import onnxruntime
import pytest

import moco_jax
from moco_jax import checkpoint, convert
from moco_jax.convert.contents import Contents
from moco_jax.methods.networks import make_networks
from tests.tiny import tiny_config

pytestmark = pytest.mark.parity


def contents(name, classes=0, **vit):
    """An encoder of random weights, BatchNorm's statistics included."""
    c = tiny_config("v3", "none")
    c.model.name, c.data.image_size, c.method.bn_group_size = name, 64, 0
    c.data.mean, c.data.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    if name.startswith("vit"):
        c.model.vit.update(patch=16, **vit)
    else:
        c.model.resnet.stem = "imagenet"
    params, stats = make_networks(c).init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    rng = np.random.default_rng(0)
    leaves = checkpoint.named({
        "params": {"backbone": params["backbone"]},
        "method_state": {"stats": {"backbone": stats["backbone"]}},
    })  # fmt: skip
    leaves = {k: np.asarray(v) + rng.uniform(0, 0.1, v.shape).astype(np.float32)
              for k, v in leaves.items()}  # fmt: skip
    if classes:
        features = 512 if name == "resnet18" else 16
        leaves["params/classifier/kernel"] = rng.normal(size=(features, classes)).astype("f")
        leaves["params/classifier/bias"] = rng.normal(size=classes).astype("f")
    return Contents("ours", c, leaves)


@pytest.mark.parametrize(
    ("name", "classes", "vit"),
    [
        ("resnet18", 5, {}),
        ("vit_tiny", 0, {"stem": "patch"}),
        ("vit_tiny", 3, {"position": "learned", "pool": "avg_norm", "norm": "batch"}),
    ],
)
def test_the_outputs_are_ours(name, classes, vit, tmp_path):
    there = contents(name, classes, **vit)
    convert.write(tmp_path / "x.onnx", there)
    assert "jax2onnx" not in sys.modules, "it replaces functions of JAX"
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    outputs = [o.name for o in session.get_outputs()]
    assert outputs == ["features", "logits"][: 1 + bool(classes)]
    convert.write(tmp_path / "x.safetensors", there)
    for count in (1, 7):
        images = np.random.default_rng(count).random((count, 64, 64, 3), np.float32)
        for output, found in zip(outputs, session.run(None, {"images": images})):
            features = "backbone" if output == "features" else "logits"
            ours = moco_jax.load(tmp_path / "x.safetensors", features=features, dtype="float32")
            expected = np.asarray(ours.apply(ours.params, images))
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
