"""Each format as its own program reads and writes it: PyTorch, timm, DeiT, detectron2."""

import pickle
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from moco_jax import convert
from moco_jax.convert import topickle, torchfile
from moco_jax.convert.position import interpolate
from tests.parity import torch_moco as tm
from tests.parity.test_convert_models import assert_same
from tests.parity.torch_weights import randomize

pytestmark = pytest.mark.parity

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def bits(array):
    """As integers, because NumPy's equality knows no bfloat16 of PyTorch."""
    if isinstance(array, torch.Tensor):
        array = array.contiguous()
        array = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
        return array.numpy()
    return array.view(np.int16) if array.dtype == ml_dtypes.bfloat16 else array


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_kind_are_read(legacy, tmp_path):
    """Types, strides, offsets, shared storages, parameters, none and one element."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tree = OrderedDict(
        [(f"{d}", torch.tensor([[0, 1, 2], [3, 4, 5]]).to(d)) for d in DTYPES],
        base=base,
        transposed=base.permute(2, 0, 1),
        strided=base[1:, ::2, 1:4],
        again=base,
        parameter=nn.Parameter(base[0].clone()),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
    )
    torch.save(
        {"state": tree, "lr": 0.1, "betas": (0.9, 0.999), "none": None, "big": 2**70, "on": True},
        tmp_path / "file",
        _use_new_zipfile_serialization=not legacy,
    )
    read = torchfile.read_legacy if legacy else torchfile.read_zip
    got = read(tmp_path / "file")
    plain = {name: value for name, value in got.items() if name != "state"}
    assert plain == {"lr": 0.1, "betas": (0.9, 0.999), "none": None, "big": 2**70, "on": True}
    assert list(got["state"]) == list(tree)
    for name, tensor in tree.items():
        array = got["state"][name].numpy()
        assert array.shape == tuple(tensor.shape), name
        np.testing.assert_array_equal(bits(array), bits(tensor.detach()), name)
    assert got["state"]["base"].storage is got["state"]["strided"].storage


@pytest.mark.parametrize("weights_only", [False, True])
def test_what_is_written_torch_reads(weights_only, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "float32": rng.normal(size=(3, 4)).astype(np.float32),
        "transposed": rng.normal(size=(3, 4, 2)).astype(np.float32).transpose(2, 0, 1),
        "bfloat16": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "float16": rng.normal(size=5).astype(np.float16),
        "float64": rng.normal(size=5),
        "int64": np.asarray(2**40),
        "empty": np.zeros((0, 2), np.float32),
    }
    plain = {"epoch": 3, "big": -(2**40), "none": None, "betas": (0.9, 0.999), "list": [1, "a", {}]}
    with open(tmp_path / "file", "wb") as file:
        topickle.save_zip(plain | {"state": OrderedDict(arrays), "ü": True}, file)
    got = torch.load(tmp_path / "file", weights_only=weights_only)
    assert isinstance(got["state"], OrderedDict)
    for name, array in arrays.items():
        assert tuple(got["state"][name].shape) == array.shape
        np.testing.assert_array_equal(bits(got["state"][name]), bits(np.ascontiguousarray(array)))
    assert {name: got[name] for name in plain} == plain
    assert got["ü"] is True


def test_half_precision_weights_become_float32(tmp_path):
    model = tm.SmallResNet(8, 4).bfloat16()
    torch.save(model.state_dict(), tmp_path / "half.pth")
    got = convert.read(tmp_path / "half.pth").leaves["params/backbone/conv1/kernel"]
    assert got.dtype == np.float32
    want = model.conv1.weight.detach().float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(got, want)


# Other programs.


def official_detectron2(state):
    """The names that MoCo's converter gives, one rule after the other as its page states them."""
    out = {}
    for name, tensor in state.items():
        if not name.startswith("module.encoder_q."):
            continue
        name = name.removeprefix("module.encoder_q.")
        name = name if "layer" in name else "stem." + name
        for stage in (1, 2, 3, 4):
            name = name.replace(f"layer{stage}", f"res{stage + 1}")
        for i in (1, 2, 3):
            name = name.replace(f"bn{i}", f"conv{i}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        out[name] = tensor.numpy()
    return out


def test_detectron2(tmp_path):
    model = tm.QueueMoCo()
    tm.save_training(model, tmp_path / "v2.pth.tar", "resnet18")
    convert.convert(tmp_path / "v2.pth.tar", tmp_path / "out.pkl")
    with open(tmp_path / "out.pkl", "rb") as file:
        got = pickle.load(file, encoding="latin1")  # as detectron2 does
    want = official_detectron2(torch.load(tmp_path / "v2.pth.tar")["state_dict"])
    assert got["matching_heuristics"] is True
    assert got["__author__"] == "MOCO"
    assert list(got["model"]) == list(want)
    assert {"stem.conv1.norm.weight", "res3.0.shortcut.norm.running_var"} <= got["model"].keys()
    for name, array in want.items():
        assert got["model"][name].dtype == array.dtype
        np.testing.assert_array_equal(got["model"][name], array, name)
    with open(tmp_path / "out.pkl", "rb") as file:
        assert b"numpy._core" not in file.read(), "which NumPy 1 does not know"


def test_deit(tmp_path):
    model = tm.v3_vit()
    tm.save_training(model, tmp_path / "v3.pth.tar", "vit_tiny")
    contents = convert.read(tmp_path / "v3.pth.tar", heads=4)
    convert.write(tmp_path / "deit.pth", contents, "deit")
    got = torch.load(tmp_path / "deit.pth", weights_only=True)
    encoder = model.base_encoder.state_dict()
    assert_same(got["model"], {n: t for n, t in encoder.items() if not n.startswith("head")})
    convert.convert(tmp_path / "deit.pth", tmp_path / "back.safetensors")
    assert convert.read(tmp_path / "back.safetensors").config.model.vit.heads == 4


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (14, 12), (3, 5)])
def test_position_embeddings_are_interpolated_as_timm_does(old, new):
    embedding = np.random.default_rng(0).normal(size=(1, 1 + old**2, 8)).astype(np.float32)
    want = resample_abs_pos_embed(torch.from_numpy(embedding), [new, new], num_prefix_tokens=1)
    got = interpolate(embedding, new, 1)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    np.testing.assert_array_equal(got[:, 0], embedding[:, 0])


def test_a_learned_position_embedding_moves_to_another_image_size(tmp_path, caplog):
    def model(size):
        return VisionTransformer(
            img_size=size, patch_size=16, embed_dim=32, depth=1, num_heads=4, num_classes=0
        )

    there = randomize(model(64), 0)
    torch.save(there.state_dict(), tmp_path / "there.pth")
    contents = convert.read(tmp_path / "there.pth", heads=4)
    assert contents.config.model.vit.position == "learned"
    with caplog.at_level("INFO", logger="moco_jax"):
        convert.write(tmp_path / "large.pth", contents, image_size=96)
    assert "interpolated, from 4 x 4 patches to 6 x 6" in caplog.text
    here = model(96)
    here.load_state_dict(torch.load(tmp_path / "large.pth"))
    want = resample_abs_pos_embed(there.pos_embed.detach(), [6, 6], num_prefix_tokens=1)
    np.testing.assert_allclose(here.pos_embed.detach(), want, atol=1e-5)
