"""Formats written and read back, and the command."""

import logging
from collections import OrderedDict

import numpy as np
import pytest

from moco_jax import config, convert
from moco_jax.commands.convert import main
from moco_jax.convert import arch, names
from moco_jax.convert.contents import complete, select
from moco_jax.convert.formats import FORMATS
from tests import torchlike
from tests.torchlike import load_torch, save_torch, small_contents

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
        {"norm_eps": 1e-12},
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
