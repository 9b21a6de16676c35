"""Each format as its own program reads and writes it: PyTorch, MoCo's scripts, timm, detectron2."""

import pickle
from collections import OrderedDict

import jax
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
from moco_jax.errors import CheckpointError
from moco_jax.methods.networks import make_networks
from tests.parity import torch_moco as tm
from tests.parity.test_convert_models import assert_same, features
from tests.parity.torch_weights import nchw, randomize, relative_error

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


# MoCo's own programs.


def training_file_of(model, path, arch, legacy=False, **extra):
    sgd = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    saved = tm.training_file(model, sgd, 200, arch) | extra
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)


def for_linear_probe(path, query, top):
    """What main_lincls.py keeps of a training file."""
    state = torch.load(path, weights_only=True)["state_dict"]
    start = f"module.{query}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in state.items()
        if name.startswith(start) and not name.startswith(start + top)
    }


@pytest.mark.parametrize("kind", ["v2", "v3 ResNet", "v3 ViT"])
def test_the_linear_probe_takes_what_is_written(kind, tmp_path):
    """`load_state_dict(strict=False)` misses the classifier alone, and the backbone is the same."""
    if kind == "v2":
        model, query, top, small = tm.QueueMoCo(), "encoder_q", "fc", tm.SmallResNet(8, 10)
        arch, heads = "resnet18", None
    elif kind == "v3 ResNet":
        model, query, top, small = tm.v3_resnet(), "base_encoder", "fc", tm.SmallResNet(8, 10)
        arch, heads = "resnet18", None
    else:
        model, query, top, heads = tm.v3_vit(), "base_encoder", "head", 4
        small = VisionTransformer(
            img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=4, num_classes=10
        )
        arch = "vit_tiny"
    training_file_of(model, tmp_path / "official.pth.tar", arch, legacy=kind == "v2")
    contents = convert.read(tmp_path / "official.pth.tar", heads=heads)
    convert.write(tmp_path / "ours", contents, "ours")
    convert.convert(tmp_path / "ours", tmp_path / "back.pth.tar")
    kept = for_linear_probe(tmp_path / "back.pth.tar", query, top)
    missing = small.load_state_dict(kept, strict=False).missing_keys
    assert set(missing) == {f"{top}.weight", f"{top}.bias"}
    original = getattr(model, query).state_dict()
    for name, tensor in small.state_dict().items():
        if not name.startswith(top):
            assert torch.equal(tensor, original[name]), name


def test_released_weights_hold_the_query_encoder_alone(tmp_path):
    model = tm.QueueMoCo(mlp=False)
    state = {f"module.encoder_q.{n}": t for n, t in model.encoder_q.state_dict().items()}
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, tmp_path / "v1.pth.tar")
    contents = convert.read(tmp_path / "v1.pth.tar")
    assert contents.config.method.projector.layers == 1
    assert not contents.holds("method_state/target/")
    convert.write(tmp_path / "encoder.pth", contents)
    want = {n: t for n, t in model.encoder_q.state_dict().items() if not n.startswith("fc")}
    assert_same(torch.load(tmp_path / "encoder.pth"), want)


@pytest.mark.parametrize("encoder", ["query", "key"])
def test_the_encoder_that_is_asked_for_is_written_and_recorded(encoder, tmp_path):
    model = tm.QueueMoCo()
    training_file_of(model, tmp_path / "v2.pth.tar", "resnet18")
    convert.convert(tmp_path / "v2.pth.tar", tmp_path / "out.pth", encoder=encoder)
    got = torch.load(tmp_path / "out.pth")
    module = model.encoder_q if encoder == "query" else model.encoder_k
    assert_same(got, {n: t for n, t in module.state_dict().items() if not n.startswith("fc")})
    assert got._metadata["moco_jax"]["encoder"] == encoder
    assert convert.read(tmp_path / "out.pth").encoder == encoder


def test_linear_probe_checkpoints_with_classifier_and_its_optimizer(tmp_path):
    model = randomize(tm.SmallResNet(8, 10), 0)
    top = [model.fc.weight, model.fc.bias]
    sgd = torch.optim.SGD(top, 30.0, momentum=0.9, weight_decay=0.0)
    model.eval()(torch.randn(2, 3, 64, 64)).sum().backward()
    sgd.step()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    best = torch.tensor(67.5)
    saved = {"epoch": 100, "arch": "resnet18", "state_dict": state, "best_acc1": best}
    torch.save(saved | {"optimizer": sgd.state_dict()}, tmp_path / "there.pth.tar")
    convert.convert(tmp_path / "there.pth.tar", tmp_path / "ours", "ours")
    convert.convert(tmp_path / "ours", tmp_path / "back.pth.tar", "lincls")
    got = torch.load(tmp_path / "back.pth.tar", weights_only=True)
    assert_same(got["state_dict"], state)
    assert torch.equal(got["best_acc1"], best)
    assert got["epoch"] == 100
    buffers = sgd.state_dict()["state"]
    assert got["optimizer"]["state"].keys() == buffers.keys()
    for number, buffer in buffers.items():
        assert torch.equal(
            got["optimizer"]["state"][number]["momentum_buffer"], buffer["momentum_buffer"]
        )
    torch.optim.SGD(top, 30.0, momentum=0.9).load_state_dict(got["optimizer"])


class DemoEncoder(nn.Module):
    """The demonstration's: the children of a ResNet with a CIFAR stem, numbered by position."""

    def __init__(self, width, outputs):
        super().__init__()
        r = tm.SmallResNet(width, outputs)
        conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        stages = r.layer1, r.layer2, r.layer3, r.layer4
        pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
        self.net = nn.Sequential(conv1, r.bn1, nn.ReLU(), *stages, pool, flatten, r.fc)

    def forward(self, x):
        return self.net(x)


def test_the_cifar_demonstration(tmp_path):
    model = nn.Module()
    model.encoder_q = randomize(DemoEncoder(8, 16), 0)
    model.encoder_k = randomize(DemoEncoder(8, 16), 1)
    for p in model.encoder_k.parameters():
        p.requires_grad = False
    model.register_buffer("queue", torch.randn(16, 12))
    model.register_buffer("queue_ptr", torch.tensor([5]))
    sgd = torch.optim.SGD(model.parameters(), 0.06, momentum=0.9, weight_decay=5e-4)
    model.encoder_q(torch.randn(4, 3, 32, 32)).square().sum().backward()
    sgd.step()
    saved = {"epoch": 7, "state_dict": model.state_dict(), "optimizer": sgd.state_dict()}
    torch.save(saved, tmp_path / "model_last.pth")
    contents = convert.read(tmp_path / "model_last.pth")
    c = contents.config
    assert (contents.format, contents.epoch, c.model.resnet.stem) == ("cifar_demo", 7, "cifar")
    assert (c.method.queue_size, c.optim.weight_decay) == (12, 5e-4)
    np.testing.assert_array_equal(contents.leaves["method_state/queue"], model.queue.numpy().T)
    assert contents.leaves["method_state/queue_ptr"] == 5
    kernel = sgd.state_dict()["state"][0]["momentum_buffer"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(contents.leaves["optimizer/trace/backbone/conv1/kernel"], kernel)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    x = features(contents, images)
    kernel, bias = (contents.leaves[f"params/projector/fc1/{n}"] for n in ("kernel", "bias"))
    want = model.encoder_q.eval()(nchw(images)).detach()
    assert relative_error(np.asarray(x) @ kernel + bias, want) < 1e-4


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
    training_file_of(model, tmp_path / "v2.pth.tar", "resnet18")
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
    training_file_of(model, tmp_path / "v3.pth.tar", "vit_tiny")
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


def test_an_optimizer_of_another_network_is_refused(tmp_path):
    model = tm.QueueMoCo()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    sgd = torch.optim.SGD(list(model.parameters())[:-1], 0.03, momentum=0.9)
    saved = {"epoch": 1, "state_dict": state, "optimizer": sgd.state_dict()}
    torch.save(saved, tmp_path / "v2.pth.tar")
    with pytest.raises(
        CheckpointError, match="its optimizer has 127 parameters, and its networks 128"
    ):
        convert.read(tmp_path / "v2.pth.tar")


def test_parameters_of_an_old_optimizer_bear_addresses(tmp_path):
    """Before PyTorch 1.5 the keys were addresses of parameters: their order counts."""
    model = tm.QueueMoCo()
    sgd = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    model(torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64), 0.9, torch.arange(4)).backward()
    sgd.step()
    saved = tm.training_file(model, sgd, 1, "resnet18")
    (group,) = saved["optimizer"]["param_groups"]
    address = {number: 10**14 - 64 * number for number in group["params"]}
    group["params"] = [address[number] for number in group["params"]]
    state = saved["optimizer"]["state"]
    saved["optimizer"]["state"] = {address[n]: state[n] for n in reversed(state)}
    torch.save(saved, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    leaves = convert.read(tmp_path / "old.pth.tar").leaves
    want = sgd.state[model.encoder_q.fc[2].bias]["momentum_buffer"]
    np.testing.assert_array_equal(leaves["optimizer/trace/projector/fc2/bias"], want)


def test_a_run_of_ours_is_written_for_the_official_code(tmp_path):
    """A state that was never PyTorch's: heads, queue and counts have the official names."""
    contents = convert.read(_workdir(tmp_path))
    convert.write(tmp_path / "out.pth.tar", contents)
    got = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    model = tm.QueueMoCo(features=16, keys=24)
    model.load_state_dict({k.removeprefix("module."): v for k, v in got["state_dict"].items()})
    assert int(model.encoder_q.bn1.num_batches_tracked) == contents.step == 7
    assert got["arch"] == "resnet18"


def _workdir(tmp_path):
    """A checkpoint of a small MoCo v2, as a run saves it."""
    from moco_jax import config
    from moco_jax.checkpoint import Checkpoints
    from moco_jax.methods import Facts, make_method
    from moco_jax.optim import make_optimizer
    from moco_jax.training.step import init_state

    c = config.default()
    c.model.name, c.model.resnet.width = "resnet18", 1 / 8
    c.data.update(batch_size=8, image_size=64)
    c.method.update(queue_size=24, bn_group_size=4)
    c.method.projector.update(out=16, hidden=0)
    method = make_method(c, Facts(1000, 0, (64, 64, 3), 10, 5.0))
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    tx = make_optimizer(c.optim, params, lambda step: 0.1)
    state = jax.jit(lambda key: init_state(method, tx, key))(jax.random.key(0))
    state = state._replace(step=np.int32(7))
    assert make_networks(c).backbone.bn_groups == 2
    store = Checkpoints(tmp_path / "run", c.checkpoint)
    store.save(7, state, config.as_json(c))
    store.close()
    return tmp_path / "run"
