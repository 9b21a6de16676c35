"""Files that other programs leave, by PyTorch itself: features equal to PyTorch's within 1e-4.

float32 on both sides; the networks are small, with statistics and weights that are not the first.
"""

import argparse
import collections
import datetime
import functools
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
import timm
import torchvision
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import moco_jax
from moco_jax import convert
from moco_jax.data.pipeline import IMAGENET
from moco_jax.errors import CheckpointError
from tests.parity.test_convert_models import torch_features
from tests.parity.torch_weights import nchw, randomize, relative_error

pytestmark = pytest.mark.parity

SIZE = 64  # pixels


def resnet(seed=0, classes=10):
    return randomize(torchvision.models.resnet18(num_classes=classes), seed)


def vit(seed=0, **options):
    sizes = {"img_size": SIZE, "patch_size": 16, "embed_dim": 192, "depth": 2, "num_heads": 3}
    return randomize(VisionTransformer(**sizes | {"num_classes": 5} | options), seed)


def images():
    return np.random.default_rng(0).random((2, SIZE, SIZE, 3)).astype(np.float32)


def normalized(x):
    return (x - np.float32(IMAGENET[0])) / np.float32(IMAGENET[1])


def assert_features(path, want, **options):
    """The encoder's features are those of PyTorch, given as an array or as the model."""
    encoder = moco_jax.load(path, image_size=SIZE, **options)
    if isinstance(want, nn.Module):
        want = torch_features(want, normalized(images()))
    got = np.asarray(encoder.apply(encoder.params, images()))
    assert relative_error(got, want) < 1e-4


def under(prefix, model, leave=()):
    state = model.state_dict()
    return {prefix + name: t for name, t in state.items() if not name.startswith(tuple(leave))}


def mlp(prefix):
    layers = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 16))
    return under(prefix, layers)


def lightly(q, k, **_):
    state = {}
    for name, model in (("backbone", q), ("backbone_momentum", k)):
        state |= under(f"{name}.", nn.Sequential(*list(model.children())[:-1]))
    state |= mlp("projection_head.layers.") | {"criterion.memory_bank.bank": torch.randn(16, 8)}
    return {"epoch": 9, "pytorch-lightning_version": "2.2.0", "state_dict": state, "loops": {}}


class HyperParameters(dict):
    pass


def sololearn(q, k, **_):
    state = under("backbone.", q, ["fc."]) | under("momentum_backbone.", k, ["fc."])
    state |= mlp("projector.") | {"queue": torch.randn(2, 8, 16)}
    options = HyperParameters(method="mocov2plus", backbone={"name": "resnet18"})
    return {"epoch": 3, "state_dict": state, "hyper_parameters": options}


def mmselfsup(q, k, **_):
    state = under("encoder_q.0.", q, ["fc."]) | under("encoder_k.0.", k, ["fc."])
    return {"meta": {"epoch": 2}, "state_dict": state | mlp("encoder_q.1.mlp.")}


def compiled(q, k, **_):
    return under("module._orig_mod.", q)


def training(q, k, names=("state_dict", "state_dict_ema")):
    sgd = torch.optim.SGD(q.parameters(), 0.1, momentum=0.9)
    q(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    before = {n: t.clone() for n, t in q.state_dict().items()}
    sgd.step()
    q.load_state_dict(before)
    q.eval()
    options = argparse.Namespace(lr=0.1, model="resnet18", data=pathlib.PosixPath("/data"))
    return {
        "epoch": 5, "arch": "resnet18", names[0]: q.state_dict(), names[1]: k.state_dict(),
        "optimizer": sgd.state_dict(), "args": options, "amp_scaler": {"scale": 65536.0},
        "metric": np.float64(71.2), "time": datetime.datetime(2024, 1, 1),
        "norm": functools.partial(nn.LayerNorm, eps=1e-6), "dtype": torch.float32,
        "losses": np.arange(3.0), "log": collections.defaultdict(list, {"a": [1]}),
    }  # fmt: skip


def deit(q, k, **_):
    return training(q, k, ("model", "model_ema"))


def vissl(q, k, **_):
    trunk = under("_feature_blocks.", q, ["fc."])
    model = {"trunk": trunk, "heads": mlp("0.clf.")}
    return {"phase_idx": 1, "classy_state_dict": {"base_model": {"model": model, "meta": {}}}}


def pickled(q, k, **_):
    return q


def without_counts(q, k, **_):
    return {n: t for n, t in q.state_dict().items() if "num_batches" not in n}


FILES = (lightly, sololearn, mmselfsup, compiled, training, deit, vissl, pickled, without_counts)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("make", FILES)
def test_files_of_other_programs(make, legacy, tmp_path):
    q, k = resnet(0), resnet(1)
    path = tmp_path / "file"
    torch.save(make(q, k), path, _use_new_zipfile_serialization=not legacy)
    assert_features(path, q)
    if make in (lightly, sololearn, mmselfsup, training, deit):
        assert_features(path, k, encoder="key")


@pytest.mark.parametrize("encoder", [None, "student", "teacher"])
def test_dinos_student_and_teacher(encoder, tmp_path):
    student, teacher = vit(0), vit(1)
    saved = {
        "student": under("module.backbone.", student, ["head."]) | mlp("module.head.mlp."),
        "teacher": under("backbone.", teacher, ["head."]) | mlp("head.mlp."),
        "epoch": 3, "args": argparse.Namespace(arch="vit_tiny"),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }  # fmt: skip
    torch.save(saved, tmp_path / "dino.pth")
    assert_features(tmp_path / "dino.pth", student if encoder == "student" else teacher,
                    encoder=encoder)  # fmt: skip


def test_torchvisions_vision_transformer(tmp_path):
    model = randomize(torchvision.models.VisionTransformer(
        image_size=SIZE, patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768,
        num_classes=5,
    ), 0)  # fmt: skip
    torch.save(model.state_dict(), tmp_path / "file")
    contents = convert.read(tmp_path / "file")
    kernel = contents.leaves["params/classifier/kernel"]
    np.testing.assert_array_equal(kernel.T, model.heads.head.weight.detach().numpy())
    model.heads = nn.Identity()
    with torch.no_grad():
        want = model.eval()(nchw(normalized(images()))).numpy()
    assert_features(tmp_path / "file", want)


def transformers_model(kind):
    torch.manual_seed(0)
    if kind == "vit":
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        c = ViTConfig(num_hidden_layers=2, image_size=SIZE, patch_size=16, layer_norm_eps=1e-6,
                      num_labels=5, **sizes)  # fmt: skip
        return randomize(ViTForImageClassification(c), 0)
    sizes = {"hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    return randomize(
        ResNetForImageClassification(ResNetConfig(embedding_size=8, num_labels=5, **sizes)), 0
    )


@pytest.mark.parametrize("how", ["whole", "bin", "sharded"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_transformers_classifiers(kind, how, tmp_path):
    model = transformers_model(kind).eval()
    path = tmp_path / "folder"
    model.save_pretrained(path, **({"max_shard_size": "100KB"} if how == "sharded" else {}))
    if how == "bin":
        (path / "model.safetensors").unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    x = nchw(normalized(images()))
    with torch.no_grad():
        if kind == "vit":
            want = model.vit(x).last_hidden_state[:, 0].numpy()
        else:
            want = model.resnet(x).pooler_output.flatten(1).numpy()
    assert_features(path, want)
    assert convert.read(path).holds("params/classifier/")


@pytest.mark.parametrize("depth", [18, 50])
def test_detectron2s_file_comes_back(depth, tmp_path):
    model = randomize(getattr(torchvision.models, f"resnet{depth}")(num_classes=10), 0)
    torch.save(model.state_dict(), tmp_path / "r.pth")
    convert.convert(tmp_path / "r.pth", tmp_path / "r.pkl")
    assert_features(tmp_path / "r.pkl", model)


@pytest.mark.parametrize("kind", ["resnet18", "vit_tiny_patch16_224"])
def test_a_timm_folder(kind, tmp_path):
    model = resnet() if kind == "resnet18" else vit()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    images = f'{{"mean": {list(IMAGENET[0])}, "std": {list(IMAGENET[1])}}}'
    (tmp_path / "config.json").write_text(
        f'{{"architecture": "{kind}", "num_classes": 10, "pretrained_cfg": {images}}}'
    )
    assert_features(tmp_path, model)


LOOKALIKES = ("resnetblur18", "seresnet18", "resnet18d", "wide_resnet50_2", "resnext50_32x4d")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes(name, named, tmp_path, caplog):
    """By name they are refused; without one, those are whose tensors differ."""
    state = timm.create_model(name, num_classes=10).state_dict()
    torch.save({"state_dict": state} | ({"arch": name} if named else {}), tmp_path / "file")
    if name == "resnetblur18" and not named:
        with caplog.at_level("INFO", "moco_jax"):
            convert.read(tmp_path / "file")
        assert "a plain resnet18 is assumed" in caplog.text
        return
    with pytest.raises(CheckpointError, match="is not the plain" if named else "do not fit"):
        convert.read(tmp_path / "file")
