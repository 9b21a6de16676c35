"""Networks are found wherever a file has them; what is taken and left out is said."""

import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.commands.convert import main
from moco_jax.convert import topickle
from moco_jax.convert.contents import select
from moco_jax.convert.schemes import detectron2_name, torchvision_vit_name
from moco_jax.errors import CheckpointError
from tests.torchlike import load_torch, save_torch, small_contents

NAMESPACE = topickle.Named("argparse", "Namespace")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """State dicts of two small ResNets, as torchvision names them."""
    path, contents = tmp_path_factory.mktemp("both"), small_contents("moco")
    for which in ("query", "key"):
        convert.write(path / f"{which}.pth", contents, encoder=which)
    return [dict(load_torch(path / f"{which}.pth")[1]) for which in ("query", "key")]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The state dict of a small ViT, as timm names it."""
    path = tmp_path_factory.mktemp("vit") / "v.pth"
    convert.write(path, small_contents("moco_v3", vit=True))
    return dict(load_torch(path)[1])


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def read(tmp_path, tree, caplog, **hints):
    """The contents of a file, and what was said of it."""
    path = save_torch(tmp_path / "f.pth", tree)
    with caplog.at_level(logging.INFO, "moco_jax"):
        contents = convert.read(path, **hints)
    return contents, caplog.text


def assert_is(contents, tensors):
    """The contents' backbone is the one of a state dict."""
    kernel = contents.leaves["params/backbone/layer4_1/conv2/kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, tensors["layer4.1.conv2.weight"])
    variance = contents.leaves["method_state/stats/backbone/bn1/var"][0]
    np.testing.assert_array_equal(variance, tensors["bn1.running_var"])


PREFIXES = (
    "", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.",
    "encoder.", "base_encoder.", "encoder_q.", "encoder_q.0.", "teacher.", "student.", "net.",
    "model.module.encoder.", "trunk._feature_blocks.", "backbone.bottom_up.",
)  # fmt: skip
NESTS = ((), ("state_dict",), ("model",), ("teacher",), ("classy_state_dict", "base_model"))


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_and_nests_are_taken_off(prefix, nest, both, tmp_path, caplog):
    tree = OrderedDict(under(prefix, both[0]))
    for key in reversed(nest):
        tree = {key: tree}
    contents, said = read(tmp_path, tree, caplog)
    assert_is(contents, both[0])
    path = [p for p in (*nest, *prefix.split(".")) if p and p not in ("module", "_orig_mod")]
    official = path and path[-1] in ("base_encoder", "encoder_q")
    if path and not official:
        assert f"behind '{'.'.join(path)}.'" in said


def positions(tensors, places):
    """The state dict of an nn.Sequential of a ResNet's children."""
    return {
        f"{places[name.split('.')[0]]}.{name.partition('.')[2]}": tensor
        for name, tensor in tensors.items()
    }


STAGES = ("layer1", "layer2", "layer3", "layer4")
SEQUENTIALS = {
    "torchvision's children": (0, 1, 4, 5, 6, 7),
    "without pooling": (0, 1, 3, 4, 5, 6),
    "without ReLU": (0, 1, 2, 3, 4, 5),
}


@pytest.mark.parametrize("prefix", ["", "backbone.", "state_dict.backbone."])
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_positions_in_a_sequential(name, prefix, both, tmp_path, caplog):
    places = dict(zip(("conv1", "bn1", *STAGES), SEQUENTIALS[name]))
    tree = OrderedDict(under(prefix, positions(both[0], places)))
    contents, said = read(tmp_path, tree, caplog)
    assert_is(contents, both[0])
    assert "its names are those of positions in an nn.Sequential" in said


PAIRS = {  # prefixes; which is taken by itself: 0 or 1; how each is asked for
    ("state_dict.", "state_dict_ema."): (0, ("query", "state_dict"), ("key", "ema")),
    ("model.", "model_ema."): (0, ("online", "model"), ("key", "model_ema")),
    ("backbone.", "momentum_backbone."): (0, ("query",), ("momentum", "momentum_backbone")),
    ("backbone.", "backbone_momentum."): (0, ("student",), ("momentum",)),
    ("encoder_q.0.", "encoder_k.0."): (0, ("query", "encoder_q"), ("key", "encoder_k")),
    ("student.backbone.", "teacher.backbone."): (1, ("student", "query"), ("teacher", "key")),
    ("online_network.", "target_network."): (0, ("online",), ("target",)),
}


@pytest.mark.parametrize("prefixes", PAIRS)
def test_one_of_several_is_taken_and_the_others_are_named(prefixes, both, tmp_path, caplog):
    tensors = under(prefixes[0], both[0]) | under(prefixes[1], both[1])
    default, *asked = PAIRS[prefixes]
    contents, said = read(tmp_path, OrderedDict(tensors), caplog)
    assert_is(contents, both[default])
    assert contents.encoder == ("query", "key")[default]
    assert f"there too: {prefixes[1 - default].rstrip('.')} (--encoder)" in said
    for which, names in enumerate(asked):
        for name in names:
            contents = convert.read(tmp_path / "f.pth", encoder=name)
            assert_is(contents, both[which])
    with pytest.raises(CheckpointError, match=r"no teaher encoder in it, only .*--encoder"):
        convert.read(tmp_path / "f.pth", encoder="teaher")


def test_networks_without_a_difference_are_asked_for(both, tmp_path, caplog):
    tensors = OrderedDict(under("left.", both[0]) | under("right.", both[1]))
    with pytest.raises(CheckpointError, match=r"could be meant: left \(query\), right \(query\); "):
        read(tmp_path, tensors, caplog)
    assert_is(convert.read(tmp_path / "f.pth", encoder="right"), both[1])
    out = tmp_path / "out.pth"
    assert main([str(tmp_path / "f.pth"), str(out), "--encoder", "right"]) == 0
    assert_is(convert.read(out), both[1])


def test_a_moving_average_alone_is_the_key_encoder(both, tmp_path, caplog):
    contents, said = read(tmp_path, {"state_dict_ema": OrderedDict(both[1])}, caplog)
    assert contents.encoder == "key"
    assert "; key encoder" in said
    with pytest.raises(CheckpointError, match="there is no query encoder in it, only the key"):
        select(contents, "query")


@pytest.mark.parametrize("scheme", ["detectron2", "torchvision_vit", "shortcut"])
def test_other_names(scheme, both, vit, tmp_path, caplog):
    if scheme == "torchvision_vit":
        tensors = {torchvision_vit_name(name): tensor for name, tensor in vit.items()}
        assert "encoder.layers.encoder_layer_1.self_attention.in_proj_weight" in tensors
        contents, said = read(tmp_path, OrderedDict(tensors), caplog, heads=2)
        got = contents.leaves["params/backbone/blocks_1/attn/qkv/kernel"]
        np.testing.assert_array_equal(got.T, vit["blocks.1.attn.qkv.weight"])
        assert contents.format == "torchvision_vit"
        return
    if scheme == "detectron2":
        tensors = {detectron2_name(name): tensor for name, tensor in both[0].items()}
    else:
        tensors = {name.replace("downsample", "shortcut"): t for name, t in both[0].items()}
    contents, said = read(tmp_path, OrderedDict(tensors), caplog)
    assert_is(contents, both[0])
    assert ("RGB and the stride in the 3x3" in said) == (scheme == "detectron2")


@pytest.mark.parametrize("protocol", [2, 4])
def test_detectron2s_pickles_of_numpys_arrays(protocol, both, tmp_path):
    tensors = {detectron2_name(n): t for n, t in both[0].items() if "tracked" not in n}
    tree = {"model": {n: np.array(t) for n, t in tensors.items()}, "__author__": "x"}
    (tmp_path / "r18.pkl").write_bytes(pickle.dumps(tree, protocol))
    contents = convert.read(tmp_path / "r18.pkl")
    assert (contents.format, contents.config.model.name) == ("detectron2", "resnet18")
    assert_is(contents, both[0])


# Whole trainings of others.


@pytest.mark.parametrize("place", ["model", "state_dict_ema", "classy_state_dict", "backbone"])
def test_weights_beside_other_things_are_a_training_file(place, both, tmp_path, caplog):
    others = {} if "state_dict" in place else {"loops": {"a": 1}}
    contents, said = read(tmp_path, {place: OrderedDict(both[0])} | others, caplog)
    assert contents.format == "training"
    assert ("left out: loops" in said) == bool(others)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_supervised_training_gives_its_weights(wrapper, both, tmp_path, caplog):
    head = {"fc.weight": np.ones((3, 16), np.float32), "fc.bias": np.ones(3, np.float32)}
    tensors = OrderedDict(under("module.", both[0] | head))
    groups = [{"lr": 0.1, "params": list(range(62))}]
    tree = {
        "epoch": 5, wrapper: tensors, "optimizer": {"state": {}, "param_groups": groups},
        "scaler": {"scale": 65536.0}, "lr_scheduler": {"last_epoch": 5}, "best_acc1": 71.0,
        "args": topickle.Call(NAMESPACE, (), {"lr": 0.1, "arch": "resnet18"}),
    }  # fmt: skip
    contents, said = read(tmp_path, tree, caplog)
    assert contents.format == "training"
    assert "training file of another program; resnet18; query encoder, classifier, epoch 5" in said
    assert "left out: optimizer, scaler, lr_scheduler, args" in said
    assert not contents.holds("optimizer/")
    assert contents.leaves["params/classifier/kernel"].shape == (16, 3)
    assert_is(contents, both[0])


def test_heads_that_are_no_classifier_are_left_out(both, tmp_path, caplog):
    mlp = {f"fc.{i}.weight": np.ones((16, 16), np.float32) for i in (0, 2)}
    contents, said = read(tmp_path, OrderedDict(both[0] | mlp), caplog)
    assert "left out: the head 'fc'" in said
    assert_is(contents, both[0])


# BatchNorm counts, and what a mismatch says.


@pytest.mark.parametrize("prefix", ["", "state_dict.module.encoder_q."])
def test_absent_counts_are_zero(prefix, both, tmp_path, caplog):
    tensors = {n: t for n, t in both[0].items() if "num_batches_tracked" not in n}
    contents, _ = read(tmp_path, OrderedDict(under(prefix, tensors)), caplog)
    counts = [leaf for name, leaf in contents.leaves.items() if name.endswith("/count")]
    assert len(counts) == 20
    assert {(int(count), count.dtype.name, count.shape) for count in counts} == {(0, "int64", ())}
    convert.write(tmp_path / "out.pth", contents)
    assert load_torch(tmp_path / "out.pth")[1].keys() == both[0].keys()


@pytest.mark.parametrize("options", [{}, {"partial": "config.init_partial=True"}])
def test_a_mismatch_names_the_options_at_hand(options, both, tmp_path):
    tensors = {name: tensor for name, tensor in both[0].items() if name != "bn1.bias"}
    path = save_torch(tmp_path / "f.pth", OrderedDict(under("backbone.", tensors)))
    with pytest.raises(CheckpointError) as error:
        convert.read(path, options=options)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("of backbone, of torchvision or timm, do not fit:")
    assert lines[1] == "  missing: bn1.bias"
    assert lines[2:] == [f"{said} takes what fits." for said in options.values()]


# Architectures.

SPELLINGS = {
    "resnet18": True, "resnet18.a1_in1k": True, "ResNet-18": True, "tv_resnet18": True,
    "moco_v2": True, "my network": True, "resnetblur18": False, "seresnet18": False,
    "resnet18d": False, "wide_resnet50_2": False, "resnext50_32x4d": False, "resnet18_gn": False,
    "ecaresnet18": False, "resnetv2_50": False, "resnetaa50": False,
}  # fmt: skip
PLACES = {
    "arch": lambda said: {"arch": said},
    "args": lambda said: {"args": topickle.Call(NAMESPACE, (), {"lr": 0.1, "model": said})},
    "hyper_parameters": lambda said: {"hyper_parameters": {"backbone": {"name": said}}},
}


@pytest.mark.parametrize("said", SPELLINGS)
@pytest.mark.parametrize("place", PLACES)
def test_the_architecture_that_a_file_names_counts(place, said, both, tmp_path, caplog):
    tree = {"state_dict": OrderedDict(both[1])} | PLACES[place](said)
    if SPELLINGS[said]:
        assert read(tmp_path, tree, caplog)[0].config.model.name == "resnet18"
        return
    message = rf"calls its network '{said}', which is not the plain resnet18 .* --arch \(arch=...\)"
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, tree, caplog)
    with pytest.raises(CheckpointError, match="is not the plain"):
        convert.read(tmp_path / "f.pth", partial=True)
    assert convert.read(tmp_path / "f.pth", arch="resnet18").format == "training"


def test_a_file_without_an_architecture_says_what_is_assumed(both, tmp_path, caplog):
    _, said = read(tmp_path, OrderedDict(both[1]), caplog)
    assert "No architecture is named: a plain resnet18 is assumed, as all names fit" in said


CHANGES = {
    "squeeze and excitation": ({"layer1.0.se.fc1.weight": (2, 2, 1, 1)}, ()),
    "a deep stem": ({"conv1.0.weight": (2, 3, 3, 3)}, ("conv1.weight",)),
    "a wide bottleneck": ({"layer1.0.conv1.weight": (4, 2, 3, 3)}, ()),
    "GroupNorm": ({}, ("bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_networks_of_other_tensors_are_refused(name, both, tmp_path, caplog):
    added, taken = CHANGES[name]
    tensors = {n: t for n, t in both[1].items() if n not in taken}
    tensors |= {n: np.ones(shape, np.float32) for n, shape in added.items()}
    with pytest.raises(CheckpointError, match="the names or shapes do not fit"):
        read(tmp_path, OrderedDict(tensors), caplog)
    assert "is assumed" not in caplog.text
