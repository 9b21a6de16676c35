"""Folders of transformers: `from_pretrained` loads what is written, with equal outputs.

float32 on both sides; 1e-4 is some hundred roundings, which is what 50 layers accumulate.
"""

import functools
import json

import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets transformers import it
from timm.models.vision_transformer import VisionTransformer
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from moco_jax import convert
from moco_jax.errors import CheckpointError
from tests.parity.test_convert_models import MODELS, SIZE, features, images, torch_features
from tests.parity.torch_weights import nchw, randomize, relative_error

pytestmark = pytest.mark.parity


def outputs(model, x):
    """The class token after the last norm, or the pooled features."""
    with torch.no_grad():
        out = model.eval()(nchw(x))
    if isinstance(model, ResNetModel):
        return out.pooler_output.flatten(1).numpy()
    return out.last_hidden_state[:, 0].numpy()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_small", "vit_base"])
def test_written_folders_load_with_equal_outputs(name, tmp_path):
    model, x = MODELS[name](), images()
    torch.save(model.state_dict(), tmp_path / "there.pth")
    contents = convert.read(tmp_path / "there.pth", arch=name)
    convert.write(tmp_path / "folder", contents, "transformers")
    if name.startswith("resnet"):
        loaded, info = ResNetModel.from_pretrained(tmp_path / "folder", output_loading_info=True)
    else:
        loaded, info = ViTModel.from_pretrained(
            tmp_path / "folder", add_pooling_layer=False, output_loading_info=True
        )
        assert loaded.config.layer_norm_eps == 1e-6
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want = torch_features(model, x)
    assert relative_error(outputs(loaded, x), want) < 1e-4
    back = convert.read(tmp_path / "folder")
    assert relative_error(features(back, x), want) < 1e-4
    assert back.config.model.vit.position == "sincos"
    for leaf, array in contents.leaves.items():
        if "classifier" not in leaf:
            np.testing.assert_array_equal(back.leaves[leaf], array, leaf)


def small(kind, eps=1e-6):
    if kind == "vit":
        config = ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            image_size=SIZE, patch_size=16, layer_norm_eps=eps,
        )  # fmt: skip
        return randomize(ViTModel(config), 0)
    sizes = {"hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    return randomize(ResNetModel(ResNetConfig(embedding_size=8, **sizes)), 0)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_folders_are_read_and_written_back_to_the_bit(kind, tmp_path):
    model, x = small(kind), images()
    model.save_pretrained(tmp_path / "there")
    contents = convert.read(tmp_path / "there")
    assert relative_error(features(contents, x), outputs(model, x)) < 1e-4
    convert.write(tmp_path / "ours", contents, "ours")
    convert.convert(tmp_path / "ours", tmp_path / "back", "transformers")
    loaded = type(model).from_pretrained(tmp_path / "back")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("eps", [1e-12, 1e-9, 1e-6, 1e-5, 1e-3, 0.1])
def test_the_epsilon_of_layer_norm(eps, tmp_path):
    """Tokens have a variance of about 1e-6 in the first norm, so that it is of weight."""
    model, x = small("vit", eps), images()
    with torch.no_grad():
        for parameter in model.embeddings.parameters():
            parameter *= 1e-3
    model.save_pretrained(tmp_path / "there")
    contents, want = convert.read(tmp_path / "there"), outputs(model, x)
    assert contents.config.model.vit.norm_eps == eps
    assert relative_error(features(contents, x), want) < 1e-4
    convert.write(tmp_path / "run", contents, "ours")
    convert.convert(tmp_path / "run", tmp_path / "back", "transformers")
    assert ViTModel.from_pretrained(tmp_path / "back").config.layer_norm_eps == eps
    convert.convert(tmp_path / "run", tmp_path / "w.pth", "timm")
    for path in ("run", "back", "w.pth", "back/model.safetensors"):
        assert relative_error(features(convert.read(tmp_path / path), x), want) < 1e-4, path
    there = VisionTransformer(
        SIZE, 16, embed_dim=32, depth=2, num_heads=4, num_classes=0,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=eps),
    )  # fmt: skip
    there.load_state_dict(torch.load(tmp_path / "w.pth"))
    assert relative_error(torch_features(there, x), want) < 1e-4
    contents.config.model.vit.norm_eps = 1e-6
    assert (relative_error(features(contents, x), want) > 1e-3) == (eps != 1e-6)


def test_without_its_config_the_epsilon_is_transformers_default(tmp_path, caplog):
    small("vit", 1e-12).save_pretrained(tmp_path)
    with caplog.at_level("INFO", "moco_jax"):
        contents = convert.read(tmp_path / "model.safetensors", heads=4)
    assert contents.config.model.vit.norm_eps == 1e-12
    assert "LayerNorm's epsilon: 1e-12, transformers' default" in caplog.text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_act", "gelu_new", "hidden_act='gelu_new' is not read, only 'gelu'"),
        ("model_type", "bert", "model_type 'bert'"),
        (
            "num_hidden_layers",
            3,
            r"by torchvision.s or timm.s names, do not fit:\n  missing: blocks\.2\.",
        ),
        ("hidden_size", "wide", "config.json"),
        *(
            ("layer_norm_eps", eps, f"layer_norm_eps={eps} is no number above 0")
            for eps in (0, -1e-6, "1e-6", None, True, float("nan"), float("inf"))
        ),
    ],
)
def test_a_config_that_is_not_ours_is_refused(field, value, message, tmp_path):
    small("vit").save_pretrained(tmp_path / "there")
    path = tmp_path / "there" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=message):
        convert.read(tmp_path / "there")
