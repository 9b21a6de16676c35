"""Files that convert refuses, and what it does not write."""

import json
from collections import OrderedDict

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.checkpoint.sealed import seal
from moco_jax.errors import CheckpointError
from tests.torchlike import load_torch, save_torch, small_contents


@pytest.fixture
def broken(tmp_path):
    """Writes a torchvision file after a change of its tensors."""

    def make(change):
        convert.write(tmp_path / "good.pth", small_contents("moco"))
        _, tensors = load_torch(tmp_path / "good.pth")
        change(tensors)
        return save_torch(tmp_path / "bad.pth", OrderedDict(tensors))

    return make


def test_missing_unexpected_and_misshapen_names_are_listed(broken):
    def change(tensors):
        tensors["layer1.0.conv1.wieght"] = tensors.pop("layer1.0.conv1.weight")
        tensors["bn1.bias"] = np.zeros(3, np.float32)

    with pytest.raises(CheckpointError) as error:
        convert.read(broken(change))
    text = str(error.value)
    assert "missing: layer1.0.conv1.weight   (nearest: layer1.0.conv1.wieght)" in text
    assert "unexpected: layer1.0.conv1.wieght   (nearest: layer1.0.conv1.weight)" in text
    assert "misshapen: bn1.bias is [3], expected [2]" in text
    assert "--partial" in text


def test_partial_takes_what_fits_and_lists_the_rest(broken, tmp_path, caplog):
    path = broken(lambda tensors: tensors.pop("layer1.0.conv1.weight"))
    contents = convert.read(path, partial=True)
    assert "missing: layer1.0.conv1.weight" in caplog.text
    assert "params/backbone/layer1_0/conv1/kernel" not in contents.leaves
    convert.write(tmp_path / "out.pth", contents)
    assert len(load_torch(tmp_path / "out.pth")[1]) == len(load_torch(path)[1])


def test_a_file_that_lost_a_whole_stage_is_refused(broken):
    def change(tensors):
        for name in [n for n in tensors if n.startswith("layer4.1.")]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"missing: layer4\.1\.bn1\.bias"):
        convert.read(broken(change))


def test_a_part_of_another_network_is_refused(tmp_path):
    convert.write(tmp_path / "good.pth.tar", small_contents("moco"))
    _, tensors = load_torch(tmp_path / "good.pth.tar")
    del tensors["module.encoder_k.bn1.running_mean"]
    save_torch(tmp_path / "bad.pth.tar", {"state_dict": OrderedDict(tensors)})
    with pytest.raises(CheckpointError, match=r"missing: encoder_k\.bn1\.running_mean"):
        convert.read(tmp_path / "bad.pth.tar")


def strip(contents):
    """As others write it: nothing says how many heads there are."""
    _, tensors = contents
    return OrderedDict(tensors)


def test_heads_that_no_shape_tells_are_asked_for(tmp_path):
    convert.write(tmp_path / "a.pth", small_contents("moco_v3", vit=True))
    path = save_torch(tmp_path / "b.pth", strip(load_torch(tmp_path / "a.pth")))
    with pytest.raises(CheckpointError, match=r"DeiT's 6\. --heads \(heads=...\) names them"):
        convert.read(path)
    assert convert.read(path, heads=4).config.model.vit.heads == 4
    with pytest.raises(CheckpointError, match="the file says 2 attention heads, not 4"):
        convert.read(tmp_path / "a.pth", heads=4)
    with pytest.raises(CheckpointError, match="heads=5 must divide the width 16"):
        convert.read(path, heads=5)


def test_another_architecture_than_asked_for_is_refused(tmp_path):
    convert.write(tmp_path / "a.pth", small_contents("moco"))
    with pytest.raises(CheckpointError, match="'vit_small' was asked for, but the file holds a R"):
        convert.read(tmp_path / "a.pth", arch="vit_small")
    with pytest.raises(CheckpointError, match=r"missing: layer1\.0\.bn3"):
        convert.read(tmp_path / "a.pth", arch="resnet50")
    convert.write(tmp_path / "v.pth", small_contents("moco_v3", vit=True, width=24, heads=12))
    with pytest.raises(CheckpointError, match=r"(?s)missing: blocks\.10\..* is \[24\], .*\[384\]"):
        convert.read(tmp_path / "v.pth", arch="vit_small")
    with pytest.raises(CheckpointError, match="did you mean 'resnet50'"):
        convert.read(tmp_path / "a.pth", arch="resnet5")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epoch": 3}, "there are no tensors in it, but 'epoch'"),
        ({}, "there are no tensors in it, but nothing"),
        ([np.ones(2)], "a list, where a dict"),
        ({"fc.weight": np.ones((2, 2))}, "neither a ResNet nor a Vision Transformer"),
        ({"conv1.weight": np.ones(2), "cls_token": np.ones(2)}, "neither a ResNet nor"),
        (
            {"cls_token": np.ones((1, 1, 192)), "blocks.999999999.norm1.weight": np.ones(2)},
            "1000000",
        ),
        (
            {
                "blocks.0.a": np.ones(2),
                "cls_token": np.ones((1, 1, 192)),
                "pos_embed": np.ones((1, 8, 192)),
            },
            "no square",
        ),
        (
            {"blocks.0.a": np.ones(2), "patch_embed.a": np.ones(2)},
            "without any tensor that tells its width",
        ),
        ({"blocks.0.a": np.ones(2)}, "neither a ResNet nor a Vision Transformer"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tree, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        convert.read(save_torch(tmp_path / "f.pth", tree))


def test_a_position_embedding_without_class_token_is_refused(tmp_path):
    convert.write(tmp_path / "a.pth", small_contents("moco_v3", vit=True))
    tensors = strip(load_torch(tmp_path / "a.pth"))
    del tensors["cls_token"]
    with pytest.raises(CheckpointError, match="missing: cls_token"):
        convert.read(save_torch(tmp_path / "b.pth", tensors), heads=2)


def test_a_changed_position_embedding_is_a_learned_one(tmp_path):
    contents = small_contents("moco_v3", vit=True)
    convert.write(tmp_path / "a.pth", contents)
    tensors = strip(load_torch(tmp_path / "a.pth"))
    changed = tensors["pos_embed"] * 1.1
    save_torch(tmp_path / "b.pth", tensors | {"pos_embed": changed})
    back = convert.read(tmp_path / "b.pth", heads=2)
    assert back.config.model.vit.position == "learned"
    np.testing.assert_array_equal(back.leaves["params/backbone/pos_embed"], changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["param_groups"].append({}), "too many values"),
        (lambda o: o.pop("state"), "KeyError"),
        (
            lambda o: o["param_groups"][0]["params"].pop(),
            "has 127 parameters, and its networks 128",
        ),
        (lambda o: o["state"][0].update(momentum_buffer=3), "AttributeError"),
        (lambda o: o["state"][0].update(momentum_buffer=np.ones(2)), "axes"),
        (lambda o: o["state"][1].update(momentum_buffer=np.ones(9)), r"\[9\] does not fit encoder"),
        (lambda o: o["state"].update({127: {"momentum_buffer": np.ones(8)}}), "does not fit enc"),
        (lambda o: o["state"].update({0: [1]}), "TypeError"),
    ],
)
def test_another_optimizer_state_is_refused(change, message, tmp_path):
    convert.write(tmp_path / "a.pth.tar", small_contents("moco"))
    tree, tensors = load_torch(tmp_path / "a.pth.tar")
    saved = tree["optimizer"]
    saved["state"] = {
        number: {"momentum_buffer": state["momentum_buffer"].numpy()}
        for number, state in saved["state"].items()
    }
    change(saved)
    save_torch(
        tmp_path / "b.pth.tar",
        {"state_dict": OrderedDict(tensors), "optimizer": {**saved}},
    )
    with pytest.raises(CheckpointError, match=message):
        convert.read(tmp_path / "b.pth.tar")


@pytest.mark.parametrize("record", [3, [], {"heads": "2", "encoder": "both", "step": -1}])
def test_a_record_that_is_not_ours_is_passed_over(record, tmp_path):
    convert.write(tmp_path / "a.pth", small_contents("moco"))
    _, tensors = load_torch(tmp_path / "a.pth")
    save_torch(tmp_path / "b.pth", {"model": OrderedDict(tensors), "moco_jax": record})
    back = convert.read(tmp_path / "b.pth")
    assert (back.encoder, back.step) == ("query", 0)


@pytest.mark.parametrize("method", ["moco", "moco_v3"])
@pytest.mark.parametrize("place", [(), ("state_dict",), ("model", "state_dict")])
def test_what_a_release_has_beside_its_weights_is_said(method, place, tmp_path, caplog):
    convert.write(tmp_path / "a.pth.tar", small_contents(method))
    _, tensors = load_torch(tmp_path / "a.pth.tar")
    saved = OrderedDict(tensors)
    for key in reversed(place):
        saved = {key: saved}
    others = {"args": {"lr": 0.03}, "arch": "resnet18", "epoch": 3, "loss": 6.5}
    path = save_torch(tmp_path / "b.pth.tar", {**saved, **others})
    with caplog.at_level("INFO", "moco_jax"):
        assert convert.read(path).format == method
    assert [r.getMessage() for r in caplog.records if "Left out" in r.msg] == [
        "Left out: args, loss"
    ]


def test_the_arch_of_an_official_probe_tells_the_heads(tmp_path):
    contents = small_contents("moco_v3", vit=True, width=384, depth=1, heads=12)
    convert.write(tmp_path / "a.pth", contents)
    tensors = strip(load_torch(tmp_path / "a.pth"))
    saved = {"state_dict": OrderedDict((f"module.{n}", t) for n, t in tensors.items())}
    path = save_torch(tmp_path / "b.pth.tar", saved | {"arch": "vit_small"})
    assert convert.read(path).config.model.vit.heads == 0, "vit_small's own"
    with pytest.raises(CheckpointError, match="12 heads, not 6"):
        convert.read(path, heads=6)
    path = save_torch(tmp_path / "c.pth.tar", saved | {"arch": "vit_small_patch16_224"})
    assert convert.read(path).config.model.vit.heads == 6, "timm's"
    path = save_torch(tmp_path / "d.pth.tar", saved)
    with pytest.raises(CheckpointError, match="does not tell its attention heads: MoCo"):
        convert.read(path)


def test_folders_that_are_nothing_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="neither a workdir"):
        convert.read(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        convert.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        convert.read(tmp_path / "nothing")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        convert.read(tmp_path / "hf")


def test_a_damaged_step_is_refused(tmp_path):
    convert.write(tmp_path / "run", small_contents("moco"), "ours")
    meta = tmp_path / "run" / "checkpoints" / "5" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    del content["sha256"]
    content["checksums"]["params/backbone/conv1/kernel"] = "0" * 16
    meta.write_text(json.dumps(seal(content)))
    with pytest.raises(CheckpointError, match="wrong checksum of params/backbone/conv1/kernel"):
        convert.read(tmp_path / "run")
    meta.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert.read(tmp_path / "run" / "checkpoints" / "5")
