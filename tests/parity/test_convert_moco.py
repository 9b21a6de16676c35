"""MoCo's own programs: training files, linear probes, the CIFAR-10 demonstration, resuming."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.models.vision_transformer import VisionTransformer

from moco_jax import convert
from moco_jax.errors import CheckpointError
from moco_jax.methods.networks import make_networks
from tests.parity import torch_moco as tm
from tests.parity.test_convert_models import assert_same, features
from tests.parity.torch_weights import nchw, randomize, relative_error

pytestmark = pytest.mark.parity


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
    tm.save_training(model, tmp_path / "official.pth.tar", arch, legacy=kind == "v2")
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
    tm.save_training(model, tmp_path / "v2.pth.tar", "resnet18")
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
