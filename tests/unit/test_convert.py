"""Formats written and read back, what is refused, and the command."""

import json
import logging
from collections import OrderedDict

import numpy as np
import pytest

from moco_jax import config, convert
from moco_jax.convert import arch, names, topickle, torchfile
from moco_jax.convert.__main__ import main
from moco_jax.convert.contents import complete, select
from moco_jax.convert.formats import FORMATS
from moco_jax.errors import CheckpointError
from tests import torchlike
from tests.torchlike import small_contents

KINDS = {
    "moco": ("moco", False),
    "moco_v3, ResNet": ("moco_v3", False),
    "moco_v3, ViT": ("moco_v3", True),
    "moco_v3, conv stem": ("moco_v3", True, "conv"),
}


@pytest.fixture(params=KINDS)
def whole(request):
    """A whole training state of each method."""
    method, vit, *stem = KINDS[request.param]
    return small_contents(method, vit, **({"stem": stem[0]} if stem else {}))


def state_of(contents):
    """The leaves, with BatchNorm statistics as one row, as PyTorch has them."""
    leaves = {}
    for name, leaf in contents.leaves.items():
        if name.endswith(("/mean", "/var")):
            leaf = np.mean(leaf, 0, np.float64, keepdims=True).astype(np.float32)
        leaves[name] = leaf
    return leaves


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name, leaf in want.items():
        assert got[name].dtype == leaf.dtype, name
        np.testing.assert_array_equal(got[name], leaf, name)


def save_torch(path, tree):
    with open(path, "wb") as file:
        topickle.save_zip(tree, file)
    return path


def load_torch(path):
    tree = torchfile.read_zip(path)
    return tree, {name: t.numpy() for name, t in tree.get("state_dict", tree).items()}


# There and back.


@pytest.mark.parametrize("to", ["official", "ours"])
def test_a_whole_training_comes_back(whole, to, tmp_path):
    path = tmp_path / ("run" if to == "ours" else "file.pth.tar")
    convert.write(path, whole, "ours" if to == "ours" else None)
    back = convert.read(path)
    assert (back.method, back.step, back.epoch) == (whole.method, whole.step, whole.epoch)
    leaves = {name: leaf for name, leaf in back.leaves.items() if name != "skipped"}
    want = whole if to == "ours" else complete(whole)
    assert_equal(state_of(back._replace(leaves=leaves)), state_of(want))
    assert back.config.model.name == whole.config.model.name
    assert back.config.optim.name == whole.config.optim.name
    for field in ("layers", "out", "bias", "bn", "last_bn"):
        assert back.config.method.projector[field] == whole.config.method.projector[field]


@pytest.mark.parametrize("to", ["timm", "deit", "transformers", "timm.safetensors"])
@pytest.mark.parametrize("encoder", ["query", "key"])
def test_one_encoder_comes_back(to, encoder, tmp_path):
    contents = small_contents("moco_v3", vit=True)
    name = "w.safetensors" if to.endswith("safetensors") else "w.pth"
    convert.write(tmp_path / name, contents, to.split(".")[0], encoder=encoder)
    back = convert.read(tmp_path / name)
    assert back.encoder == encoder
    assert back.config.model.vit.heads == 2, "which no shape tells"
    chosen = complete(select(contents, encoder)).leaves
    want = {name: leaf for name, leaf in chosen.items() if "/backbone/" in name}
    assert_equal(state_of(back), state_of(contents._replace(leaves=want)))


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "avg_norm", "position": "learned"},
        {"pool": "avg", "norm": "batch"},
        {"position": "none"},
    ],
)
def test_other_vits_come_back_by_way_of_timm(options, tmp_path):
    contents = small_contents("moco_v3", vit=True, **options)
    convert.write(tmp_path / "w.pth", contents)
    back = convert.read(tmp_path / "w.pth")
    for field, value in options.items():
        assert back.config.model.vit[field] == value
    chosen = complete(select(contents, "query")).leaves
    want = {name: leaf for name, leaf in chosen.items() if "/backbone/" in name}
    assert_equal(state_of(back), state_of(contents._replace(leaves=want)))


def test_the_names_and_layouts_of_v2(tmp_path):
    contents = small_contents("moco")
    convert.write(tmp_path / "f.pth.tar", contents)
    tree, tensors = load_torch(tmp_path / "f.pth.tar")
    assert list(tensors)[:3] == [
        "module.queue",
        "module.queue_ptr",
        "module.encoder_q.conv1.weight",
    ]
    assert tensors["module.queue"].shape == (8, 12)
    assert tensors["module.queue_ptr"].tolist() == [3]
    assert tensors["module.encoder_q.conv1.weight"].shape == (2, 3, 7, 7)
    assert tensors["module.encoder_k.layer2.0.downsample.0.weight"].shape == (4, 2, 1, 1)
    assert tensors["module.encoder_q.fc.0.weight"].shape == (16, 16)
    assert tensors["module.encoder_k.fc.2.weight"].shape == (8, 16)
    counts = tensors["module.encoder_q.layer1.0.bn1.num_batches_tracked"]
    assert (counts.shape, counts.dtype, int(counts)) == ((), np.int64, 5)
    np.testing.assert_array_equal(
        tensors["module.encoder_k.fc.2.weight"],
        contents.leaves["method_state/target/params/projector/fc2/kernel"].T,
    )
    groups = contents.leaves["method_state/stats/backbone/bn1/var"]
    assert groups.shape == (2, 2)
    np.testing.assert_allclose(tensors["module.encoder_q.bn1.running_var"], groups.mean(0), 1e-6)
    assert (tree["epoch"], tree["arch"]) == (2, "resnet18")
    optimizer = tree["optimizer"]
    trained = [n for n in tensors if n.startswith("module.encoder_q") and "running" not in n]
    trained = [n for n in trained if "tracked" not in n]
    assert list(optimizer["state"]) == list(range(len(trained)))
    (group,) = optimizer["param_groups"]
    assert group["params"] == list(range(2 * len(trained)))
    last = optimizer["state"][len(trained) - 1]["momentum_buffer"].numpy()
    np.testing.assert_array_equal(last, contents.leaves["optimizer/trace/projector/fc2/bias"])


def test_the_names_and_layouts_of_v3(tmp_path):
    contents = small_contents("moco_v3", vit=True)
    convert.write(tmp_path / "f.pth.tar", contents)
    tree, tensors = load_torch(tmp_path / "f.pth.tar")
    assert list(tensors)[:3] == [
        f"module.base_encoder.{n}" for n in ("cls_token", "pos_embed", "patch_embed.proj.weight")
    ]
    assert tensors["module.base_encoder.patch_embed.proj.weight"].shape == (16, 3, 16, 16)
    assert tensors["module.momentum_encoder.blocks.1.attn.qkv.weight"].shape == (48, 16)
    heads = {n.rsplit(".", 2)[1] for n in tensors if n.startswith("module.base_encoder.head.")}
    assert heads == {"0", "1", "3", "4", "6", "7"}
    assert "module.base_encoder.head.7.weight" not in tensors
    assert "module.predictor.4.running_mean" in tensors
    assert int(tensors["module.predictor.1.num_batches_tracked"]) == 10, "two views a step"
    state = tree["optimizer"]["state"]
    frozen = {1, 2, 3}  # pos_embed and the patch projection
    assert set(range(7)) - state.keys() == frozen
    assert state[0]["step"] == 5
    np.testing.assert_array_equal(
        state[0]["exp_avg"].numpy(), contents.leaves["optimizer/mu/backbone/cls_token"]
    )
    assert tree["scaler"]["scale"] == 65536.0


@pytest.mark.parametrize("name", arch.ARCHS)
def test_tables_are_one_to_one(name):
    model = config.default().model
    chosen = arch.ARCHS[name]
    model.name = chosen["name"]
    model.vit.stem = chosen.get("stem", "patch")
    table = names.rows(names.backbone(model), "backbone", "backbone")
    for field in ([row.ours for row in table], [n for row in table for n in row.theirs]):
        assert len(set(field)) == len(field)
    if model.vit.stem == "patch":
        theirs = names.rows(names.backbone(model), "backbone", "backbone", transformers=True)
        flat = [n for row in theirs for n in row.theirs]
        assert len(set(flat)) == len(flat)
        assert [row.ours for row in theirs] == [row.ours for row in table]


def test_layouts_undo_each_other():
    rng = np.random.default_rng(0)
    for name, shape in (("same", (3,)), ("matrix", (2, 3)), ("conv", (2, 3, 4, 5))):
        x = rng.normal(size=shape).astype(np.float32)
        layout = names.LAYOUTS[name]
        np.testing.assert_array_equal(layout.write(layout.read(x)), x)
    x = rng.normal(size=1000).astype(np.float32)
    for groups in (1, 3, 7, 8, 100):
        rows = np.broadcast_to(names.LAYOUTS["statistic"].read(x), (groups, 1000))
        np.testing.assert_array_equal(names.LAYOUTS["statistic"].write(rows), x)


# What is refused.


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
    with pytest.raises(CheckpointError, match="attention heads: name them with --heads"):
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
        ({"state_dict": {"a": np.ones(2)}, "model": {"b": np.ones(2)}}, "more than one place"),
        ({"epoch": 3}, "no dict of tensors"),
        ([np.ones(2)], "a list, where a dict"),
        ({"fc.weight": np.ones((2, 2))}, "neither a ResNet nor a Vision Transformer"),
        ({"conv1.weight": np.ones(2), "cls_token": np.ones(2)}, "neither a ResNet nor"),
        ({"encoder_q.a": np.ones(2), "base_encoder.a": np.ones(2)}, "of MoCo v1/v2 and of v3"),
        (
            {"cls_token": np.ones((1, 1, 192)), "blocks.999999999.norm1.weight": np.ones(2)},
            "1000000",
        ),
        ({"cls_token": np.ones((1, 1, 192)), "pos_embed": np.ones((1, 8, 192))}, "no square"),
        ({"blocks.0.a": np.ones(2)}, "without any tensor that tells its width"),
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
    with pytest.raises(CheckpointError, match="attention heads: name them with --heads"):
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
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"there is no model\.safetensors"):
        convert.read(tmp_path / "hf")


def test_a_damaged_step_is_refused(tmp_path):
    convert.write(tmp_path / "run", small_contents("moco"), "ours")
    meta = tmp_path / "run" / "checkpoints" / "5" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["checksums"]["params/backbone/conv1/kernel"] = "0" * 16
    meta.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="wrong checksum of params/backbone/conv1/kernel"):
        convert.read(tmp_path / "run")
    meta.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert.read(tmp_path / "run" / "checkpoints" / "5")


# What cannot be written.


@pytest.mark.parametrize(
    ("kind", "to", "message"),
    [
        (("moco_v3", True), "torchvision", "use timm"),
        (("moco_v3", True), "detectron2", "holds ResNets"),
        (("moco", False), "deit", "holds Vision Transformers"),
        (("moco", False), "lincls", "params/classifier/kernel"),
        (("moco", False), "moco_v3", "a moco training is not one of moco_v3"),
    ],
)
def test_formats_that_cannot_hold_it(kind, to, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out", small_contents(*kind), to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vit": {"pool": "avg"}}, "pool='avg'"),
        ({"vit": {"stem": "conv", "position": "none"}}, "stem='conv', position='none'"),
    ],
)
def test_vits_that_transformers_does_not_have(change, message, tmp_path):
    contents = small_contents("moco_v3", vit=True)
    contents.config.model.vit.update(change["vit"])
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out", contents, "transformers")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.method.predictor.update(layers=3), "predictor.layers is 3, not 2"),
        (lambda c: c.method.projector.update(bias=True), "projector.bias is True, not False"),
        (lambda c: c.model.vit.update(position="learned"), "position is learned, not sincos"),
        (
            lambda c: c.model.vit.update(width=384, heads=6),
            "its ViT of width 384 has 12 heads, not 6",
        ),
    ],
)
def test_networks_that_the_official_code_does_not_have(change, message, tmp_path):
    contents = small_contents("moco_v3", vit=True)
    change(contents.config)
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out.pth.tar", contents)


def test_v2_with_a_vit_is_not_the_official_codes(tmp_path):
    with pytest.raises(CheckpointError, match="it has ResNets only"):
        convert.write(tmp_path / "out.pth.tar", small_contents("moco", vit=True))


def test_arguments_that_do_not_fit(tmp_path):
    contents = small_contents("moco")
    (tmp_path / "there.pth").write_text("mine")
    with pytest.raises(ValueError, match=r"there\.pth exists; it is not overwritten"):
        convert.write(tmp_path / "there.pth", contents)
    with pytest.raises(ValueError, match="tells no format: name one with --to"):
        convert.write(tmp_path / "out", contents)
    with pytest.raises(ValueError, match="did you mean 'torchvision'"):
        convert.write(tmp_path / "out", contents, "torchvison")
    with pytest.raises(ValueError, match="for formats of one encoder, not for 'moco'"):
        convert.write(tmp_path / "out.pth.tar", contents, encoder="key")
    with pytest.raises(ValueError, match="did you mean 'query'"):
        convert.write(tmp_path / "out.pth", contents, encoder="quer")
    convert.write(tmp_path / "key.pth", contents, encoder="key")
    with pytest.raises(CheckpointError, match="no query encoder in it, only the key encoder"):
        convert.write(tmp_path / "q.pth", convert.read(tmp_path / "key.pth"), encoder="query")
    assert (tmp_path / "there.pth").read_text() == "mine"


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(topickle, "_record", fail)
    with pytest.raises(OSError, match="no space left"):
        convert.write(tmp_path / "out.pth", small_contents("moco"))
    assert not list(tmp_path.iterdir())


# The rest.


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("a.pth.tar", "moco", "moco"), ("a.pth.tar", "moco_v3", "moco_v3"),
        ("a.pth", "moco", "torchvision"), ("a.safetensors", "moco_v3", "torchvision"),
        ("a.pkl", "moco", "detectron2"),
    ],
)  # fmt: skip
def test_the_end_of_a_path_tells_the_format(name, method, expected, tmp_path):
    assert convert.format_of_path(tmp_path / name, small_contents(method)) == expected


def test_a_vits_flat_file_is_timms(tmp_path):
    contents = small_contents("moco_v3", vit=True)
    assert convert.format_of_path(tmp_path / "a.pth", contents) == "timm"


def test_a_fixed_position_embedding_is_made_for_another_size(tmp_path, caplog):
    contents = small_contents("moco_v3", vit=True)
    with caplog.at_level(logging.INFO, "moco_jax"):
        convert.write(tmp_path / "a.pth", contents, image_size=64)
    assert "fixed, made anew, from 2 x 2 patches to 4 x 4" in caplog.text
    back = convert.read(tmp_path / "a.pth")
    assert (back.config.data.image_size, back.config.model.vit.position) == (64, "sincos")
    with pytest.raises(ValueError, match="not a multiple of the patch size 16"):
        convert.write(tmp_path / "b.pth", contents, image_size=50)


def test_the_bits_of_a_position_embedding_survive_a_workdir(tmp_path):
    contents = small_contents("moco_v3", vit=True)
    convert.write(tmp_path / "a.pth.tar", contents)
    _, tensors = load_torch(tmp_path / "a.pth.tar")
    names_ = [f"module.{which}_encoder.pos_embed" for which in ("base", "momentum")]
    for name in names_:
        tensors[name] = np.nextafter(tensors[name], np.float32(2))
    counts = "module.base_encoder.head.1.num_batches_tracked"
    tensors[counts] = np.asarray(123)
    save_torch(tmp_path / "b.pth.tar", {"arch": "vit_tiny", "state_dict": OrderedDict(tensors)})
    convert.convert(tmp_path / "b.pth.tar", tmp_path / "run", "ours", heads=2)
    convert.convert(tmp_path / "run", tmp_path / "c.pth.tar")
    _, got = load_torch(tmp_path / "c.pth.tar")
    for name in [*names_, counts]:
        np.testing.assert_array_equal(got[name], tensors[name])


def test_the_command(tmp_path, caplog, capsys):
    convert.write(tmp_path / "v3.pth.tar", small_contents("moco_v3"))
    arguments = [str(tmp_path / name) for name in ("v3.pth.tar", "key.pth")]
    with caplog.at_level(logging.INFO, "moco_jax"):
        assert main([*arguments, "--encoder", "key"]) == 0
    said = caplog.text
    assert "training file of MoCo v3; resnet18; query encoder, key encoder, projector" in said
    assert "state of adamw, epoch 2" in said
    assert "key.pth: torchvision (or timm) ResNet, key encoder" in said
    assert main([*arguments]) == 2
    assert "key.pth exists" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "out.pth")]) == 2
    with pytest.raises(SystemExit):
        main([*arguments, "--to", "nothing"])


def test_every_format_is_in_the_table_of_the_docs():
    text = torchlike.ROOT.joinpath("docs", "convert.md").read_text()
    for name in FORMATS:
        assert f"`{name}`" in text
