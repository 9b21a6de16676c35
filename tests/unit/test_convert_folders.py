"""Folders of the Hugging Face hub: transformers' and timm's, whole and in parts."""

import json
import logging
import shutil
from collections import OrderedDict

import numpy as np
import pytest

import moco_jax
from moco_jax import convert
from moco_jax.convert import safetensors
from moco_jax.errors import CheckpointError
from tests.torchlike import load_torch, save_torch, small_contents

HALVES = ("model-1.safetensors", "model-2.safetensors")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A transformers folder of a ViT and of a ResNet."""
    path = tmp_path_factory.mktemp("folders")
    convert.write(path / "vit", small_contents("moco_v3", vit=True), "transformers")
    convert.write(path / "resnet", small_contents("moco"), "transformers")
    return path


def save_tensors(path, tensors):
    with open(path, "wb") as file:
        safetensors.save(tensors, {}, file)


def rearrange(folder, how):
    """The weights as others lay them down."""
    tensors = {n: np.array(t) for n, t in safetensors.read(folder / "model.safetensors")[0].items()}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = [dict.fromkeys(names[::2]), dict.fromkeys(names[1::2])]
    parts = [{name: tensors[name] for name in part} for part in parts]
    if how == "bin":
        save_torch(folder / "pytorch_model.bin", OrderedDict(tensors))
    if how == "shards":
        for part, file in zip(parts, HALVES):
            save_tensors(folder / file, part)
        write_index(folder / "model.safetensors.index.json", parts, HALVES)
    if how == "shards of bin":
        files = ("a.bin", "b.bin")
        for part, file in zip(parts, files):
            save_torch(folder / file, OrderedDict(part))
        write_index(folder / "pytorch_model.bin.index.json", parts, files)
    if how in ("vit.", "resnet."):
        top = {"vit.": "classifier", "resnet.": "classifier.1"}[how]
        head = {
            f"{top}.weight": np.ones((5, 16), np.float32),
            f"{top}.bias": np.ones(5, np.float32),
        }
        prefixed = {how + name: tensor for name, tensor in tensors.items()}
        save_tensors(folder / "model.safetensors", prefixed | head)
    if how == "memory":
        new = {
            "attention.attention.query": "attention.q_proj", "intermediate.dense": "mlp.fc1",
            "attention.attention.key": "attention.k_proj", "encoder.layer": "layers",
            "attention.attention.value": "attention.v_proj",
            "attention.output.dense": "attention.o_proj", ".output.dense": ".mlp.fc2",
        }  # fmt: skip
        for old, there in new.items():
            tensors = {name.replace(old, there): tensor for name, tensor in tensors.items()}
        save_torch(folder / "pytorch_model.bin", OrderedDict(tensors))


def write_index(path, parts, files):
    places = {name: file for part, file in zip(parts, files) for name in part}
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))


WAYS = [
    (kind, how)
    for kind in ("vit", "resnet")
    for how in ("bin", "shards", "shards of bin", f"{kind}.", "memory")
    if (kind, how) != ("resnet", "memory")
]


@pytest.mark.parametrize(("kind", "how"), WAYS)
def test_weights_of_every_kind_give_the_same(kind, how, written, tmp_path):
    want = convert.read(written / kind).leaves
    shutil.copytree(written / kind, tmp_path / "f")
    rearrange(tmp_path / "f", how)
    contents = convert.read(tmp_path / "f")
    assert contents.format == "transformers"
    assert contents.holds("params/classifier/") == how.endswith(".")
    for name, leaf in want.items():
        np.testing.assert_array_equal(contents.leaves[name], leaf, name)


def timm_folder(path, vit=False, **said):
    """A folder as timm's part of the hub has it."""
    path.mkdir()
    convert.write(path / "w.pth", small_contents("moco_v3" if vit else "moco", vit))
    tensors = {n: np.array(t) for n, t in load_torch(path / "w.pth")[1].items()}
    (path / "w.pth").unlink()
    save_tensors(path / "model.safetensors", tensors)
    images = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.3]}
    images |= {"crop_pct": 0.95}
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": images} | said
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_timm_folder_tells_how_images_are_prepared(tmp_path, caplog):
    path = timm_folder(tmp_path / "f")
    with caplog.at_level(logging.INFO, "moco_jax"):
        encoder = moco_jax.load(path)
    assert (encoder.mean, encoder.std) == ((0.5, 0.4, 0.3), (0.2, 0.1, 0.3))
    assert encoder.config.data.eval_crop_share == 0.95
    assert "mean (0.5, 0.4, 0.3), std (0.2, 0.1, 0.3), as the folder says" in caplog.text


def test_a_transformers_folder_tells_how_images_are_prepared(written, tmp_path):
    shutil.copytree(written / "resnet", tmp_path / "f")
    images = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "f" / "preprocessor_config.json").write_text(json.dumps(images))
    encoder = moco_jax.load(tmp_path / "f")
    assert (encoder.mean, encoder.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_timm_folder_tells_the_heads_and_the_architecture(tmp_path):
    with pytest.raises(CheckpointError, match="calls its network 'resnetblur18'"):
        convert.read(timm_folder(tmp_path / "a", architecture="resnetblur18"))
    path = timm_folder(tmp_path / "b", vit=True, architecture="vit_tiny_patch16_224")
    with pytest.raises(CheckpointError, match="heads=3 must divide the width 16"):
        convert.read(path)
    assert convert.read(path, heads=4).config.model.vit.heads == 4


CONFIGS = {
    "nothing": (
        {},
        "has no model_type, as transformers' have, nor an architecture, as timm's; it ",
    ),
    "other names": ({"hidden": 3, "dim": 4}, "it has 'hidden', 'dim'"),
    "another model": (
        {"model_type": "swin", "architectures": ["SwinModel"]},
        r"config\.json is of model_type 'swin' \(\['SwinModel'\]\); vit, vit_mae, resnet are read",
    ),
    "a list as type": ({"model_type": ["vit"]}, "model_type \"\\['vit'\\]\""),
    "a list": ([1], r"config\.json holds a list, not names and values"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_others_are_refused_with_what_they_say(name, tmp_path):
    said, message = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=message):
        convert.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[" * 10**5])
def test_a_damaged_config_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        convert.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "model-2.safetensors").unlink(),
            r"of 2 parts model-2\.safetensors are not",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../x"}}'
            ),
            r"of 1 parts \.\./x are not there",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "no tensor where it is"),
        (
            lambda f: (f / "model.safetensors.index.json").unlink(),
            r"no weights in it .* but config",
        ),
    ],
)
def test_parts_that_are_not_there(change, message, written, tmp_path):
    shutil.copytree(written / "vit", tmp_path / "f")
    rearrange(tmp_path / "f", "shards")
    change(tmp_path / "f")
    with pytest.raises(CheckpointError, match=message):
        convert.read(tmp_path / "f")


def test_a_folder_of_nothing_known_names_what_is_there(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"\(config\.json\): there is weights\.h5"):
        convert.read(tmp_path)


def test_detectron2s_settings_are_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "moco_jax"):
        convert.write(tmp_path / "out.pkl", small_contents("moco"))
    assert (
        "in detectron2: INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.280, 103.530], "
        "MODEL.PIXEL_STD [58.395, 57.120, 57.375], MODEL.RESNETS.STRIDE_IN_1X1 False"
    ) in caplog.text


@pytest.mark.parametrize("method", ["moco", "moco_v3"])
@pytest.mark.parametrize("name", ["x.pkl", "x.pth", "x.safetensors"])
def test_ones_own_export_comes_back_whatever_its_head(name, method, tmp_path, caplog):
    """MoCo v2's head is an MLP, v3's has BatchNorm: detectron2's file has both."""
    there = small_contents(method)
    assert there.config.method.projector.layers > 1
    convert.write(tmp_path / name, there)
    with caplog.at_level(logging.INFO, "moco_jax"):
        back = convert.read(tmp_path / name)
    assert ("left out: the head 'fc'" in caplog.text) == name.endswith("pkl")
    assert back.encoder == "query"
    assert not back.holds("params/classifier/")
    names = {n for n in there.leaves if n.startswith("params/backbone/")}
    assert names == {n for n in back.leaves if n.startswith("params/")}
    for leaf in names:
        np.testing.assert_array_equal(back.leaves[leaf], there.leaves[leaf])
