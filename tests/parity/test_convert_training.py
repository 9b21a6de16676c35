"""Training that starts in PyTorch and goes on here, step by step the same.

`torch_moco` trains two steps and saves a file as the official code lays it out. From there one step
is made on both sides, on the same views: loss, every parameter, statistic, queue entry and
optimizer buffer must agree. Ours is written back as an official file and compared as such, so that
the test holds the methods' order of operations, the reader and the writer at once; PyTorch resumes
from that file; and after two more steps here, what is written is what there is.

float32 on both sides: 1e-4 of the largest value of each tensor, of which 1e-5 is used. A step
changes a weight by little, so what it changes is held to as well, at 1e-3 of the largest change
(1e-4 is used): a wrong learning rate, decay or buffer is off by far more. A gradient that is zero
but for roundings has nothing to compare: a buffer's scale is at least 1e-4 of the largest of its
kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from moco_jax import config, convert, mesh
from moco_jax.checkpoint import Checkpoints, named
from moco_jax.config import as_json
from moco_jax.convert.formats.ours import optimizer_leaf
from moco_jax.methods import Facts, make_method
from moco_jax.methods.method import Batch
from moco_jax.optim import make_optimizer, make_schedule, parameter_groups
from moco_jax.training.experiment import Experiment
from moco_jax.training.first_state import first_state
from moco_jax.training.step import make_train_step
from tests.parity import torch_moco as tm
from tests.parity.torch_weights import nchw

pytestmark = pytest.mark.parity

BATCH, SIZE, EPOCHS, STEPS_PER_EPOCH = 16, 64, 5, 2
SCALER = {
    "scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
    "_growth_tracker": 2,
}  # fmt: skip


def images(step):
    """Two views of a batch, (2, B, S, S, 3)."""
    rng = np.random.default_rng(step)
    return rng.normal(size=(2, BATCH, SIZE, SIZE, 3)).astype(np.float32)


class Queue:
    """v2 (or v1) with SGD, the keys shuffled or not."""

    arch, epoch_of_rate = "resnet18", staticmethod(lambda step: step / STEPS_PER_EPOCH)

    def __init__(self, shuffle, mlp=True):
        torch.manual_seed(0)
        self.shuffle = shuffle
        self.model = tm.QueueMoCo(mlp=mlp, groups=2).train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 1.0, momentum=0.9, weight_decay=1e-2
        )
        c = self.config = config.default()
        c.model.name, c.model.resnet.width = "resnet18", 1 / 8
        c.method.update(queue_size=24, ema=0.9, bn_group_size=8, shuffle_bn=shuffle)
        c.method.projector.update(out=16, hidden=0, layers=2 if mlp else 1)
        c.optim.update(weight_decay=1e-2, base_lr=0.05 * 256 / BATCH)

    def rate(self, epoch):
        return tm.cosine_rate(0.05, epoch, EPOCHS)

    def loss(self, views, step):
        order = np.arange(BATCH)
        if self.shuffle:  # the order that our step draws for the keys
            key = jax.random.fold_in(jax.random.key(self.config.seed), step)
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), BATCH))
        return self.model(*map(nchw, views), 0.9, torch.from_numpy(order.copy()))


class Symmetric:
    """v3, ResNet with LARS or ViT with AdamW."""

    def __init__(self, vit):
        torch.manual_seed(0)
        self.model = (tm.v3_vit(size=SIZE) if vit else tm.v3_resnet()).train()
        parameters = self.model.parameters()
        c = self.config = config.default()
        heads = {"layers": 2, "hidden": 32, "out": 16, "bias": False, "bn": True, "last_bn": True}
        c.method.update(name="moco_v3", bn_group_size=0, ema=0.9, ema_schedule="cosine")
        c.method.projector.update(heads)
        c.method.predictor.update(heads)
        if vit:
            self.arch, self.peak, self.temperature = "vit_tiny", 0.01, 0.2
            self.optimizer = torch.optim.AdamW(parameters, 1.0, weight_decay=0.1, eps=1e-4)
            c.model.name = "vit_tiny"
            c.model.vit.update(width=32, depth=2, heads=4)
            c.method.projector.layers = 3
            # Some gradients are zero but for roundings (of the keys' bias, of a bias before a
            # BatchNorm); with a small epsilon Adam would make full steps of them.
            c.optim.update(name="adamw", weight_decay=0.1, eps=1e-4)
            c.optim.freeze = ("backbone/patch_embed",)
        else:
            self.arch, self.peak, self.temperature = "resnet18", 5.0, 1.0
            self.optimizer = tm.Lars(parameters, 1.0, weight_decay=1e-2)
            c.model.name, c.model.resnet.width = "resnet18", 1 / 8
            c.method.predictor.last_bn = False
            c.optim.update(name="lars", weight_decay=1e-2, exclude_1d=True)
        c.method.temperature = self.temperature
        c.optim.update(base_lr=self.peak * 256 / BATCH, warmup_epochs=2.0)

    def rate(self, epoch):
        return tm.cosine_rate(self.peak, epoch, EPOCHS, warmup=2)

    def loss(self, views, step):
        m = tm.cosine_momentum(0.9, step / STEPS_PER_EPOCH, EPOCHS)
        return self.model(*map(nchw, views), m, self.temperature)


CASES = {
    "v2, SGD": lambda: Queue(shuffle=False),
    "v2, SGD, keys shuffled": lambda: Queue(shuffle=True),
    "v1, SGD, keys shuffled": lambda: Queue(shuffle=True, mlp=False),
    "v3, ResNet, LARS": lambda: Symmetric(vit=False),
    "v3, ViT, AdamW": lambda: Symmetric(vit=True),
}


def torch_step(side, step):
    for group in side.optimizer.param_groups:
        group["lr"] = side.rate(step / STEPS_PER_EPOCH)
    loss = side.loss(images(step), step)
    side.optimizer.zero_grad()
    loss.backward()
    side.optimizer.step()
    return float(loss.detach())


def file_of(side, epoch):
    scaler = SCALER if isinstance(side, Symmetric) else None
    return tm.training_file(side.model, side.optimizer, epoch, side.arch, scaler)


def experiment_on(c, path):
    """An experiment without data: its views are given arrays, in the order of the batch."""
    c.data.update(batch_size=BATCH, image_size=SIZE)
    c.init, c.epochs = str(path), float(EPOCHS)
    steps = EPOCHS * STEPS_PER_EPOCH

    def views(batch, view):
        return batch["views"][:, view]

    facts = Facts(BATCH * STEPS_PER_EPOCH, 0, (SIZE, SIZE, 3), steps, STEPS_PER_EPOCH)
    method = make_method(c, facts)
    schedule = make_schedule(c.optim, BATCH, steps, STEPS_PER_EPOCH)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    frozen = jax.tree.map(lambda group: group == "frozen", parameter_groups(c.optim, params))
    tx = make_optimizer(c.optim, params, schedule)
    devices = mesh.make_mesh(jax.devices()[:1])
    rest = method, tx, schedule, frozen, steps, STEPS_PER_EPOCH, {}
    return Experiment(c, devices, None, None, (), (), views, *rest)


def our_step(x):
    step = jax.jit(make_train_step(x.task, x.tx, x.schedule, x.frozen, x.config.seed))

    def run(state, number):
        views = jnp.asarray(np.moveaxis(images(number), 0, 1))
        entries = {"views": views, "index": jnp.arange(BATCH, dtype=jnp.int32)}
        return step(state, Batch(entries, x.augment))

    return run


def save_and_convert(x, state, workdir, target):
    store = Checkpoints(workdir, x.config.checkpoint)
    store.save(int(state.step), state, as_json(x.config))
    store.close()
    convert.convert(workdir, target)
    return torch.load(target, weights_only=True)


def flat(saved):
    """All tensors of a training file, the optimizer's by number."""
    tensors = dict(saved["state_dict"])
    for number, state in saved["optimizer"]["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer {number} {name}"] = torch.as_tensor(value)
    return {name: t.double().numpy() for name, t in tensors.items()}


def scale_of(name, tensors):
    """The largest value of a tensor, or what counts as one of an optimizer's buffer."""
    scale = np.abs(tensors[name]).max()
    if not name.startswith("optimizer"):
        return scale
    kind = name.split()[-1]
    return max(scale, 1e-4 * max(np.abs(t).max() for n, t in tensors.items() if n.endswith(kind)))


def assert_close(got, want, before):
    assert got.keys() == want.keys()
    changed = 0
    for name, wanted in want.items():
        if name.endswith(("num_batches_tracked", "queue_ptr", " step")):
            assert got[name] == wanted, name
            continue
        scale, error = scale_of(name, want), np.abs(got[name] - wanted).max()
        assert error <= 1e-4 * scale, (name, error / scale)
        change = np.abs(wanted - before[name]).max()
        if change > 1e-3 * scale:
            changed += 1
            assert error <= 1e-3 * change, (name, error / change)
    assert changed > len(want) / 2, "a step that changes little proves little"


def assert_nothing_lost(state, contents, before):
    """What the official file says after three steps here is this state, to the bit."""
    leaves, held = named(state), contents.leaves
    for name, leaf in leaves.items():
        if "/stats/" in name:
            np.testing.assert_array_equal(held[name][0], _mean(leaf), name)
        elif name.startswith("opt_state/") and not name.endswith("/count"):
            np.testing.assert_array_equal(held[optimizer_leaf(name, leaves)], leaf, name)
        elif name.startswith(("params/", "method_state/")):
            np.testing.assert_array_equal(held[name], leaf, name)
    views = 2 if contents.method == "moco_v3" else 1
    for name, leaf in before.leaves.items():
        if "/stats/" in name and name.endswith("/count"):
            assert held[name] == leaf + 3 * views, name
        if "constants" in name:
            np.testing.assert_array_equal(held[name], leaf, name)
    assert held.keys() == before.leaves.keys()
    assert contents.extra.get("scaler") == before.extra.get("scaler")


def _mean(rows):
    return np.asarray(rows, np.float64).mean(0).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_from_an_official_file_and_back(name, tmp_path):
    side = CASES[name]()
    for step in range(STEPS_PER_EPOCH):
        torch_step(side, step)
    official = tmp_path / "official.pth.tar"
    torch.save(file_of(side, 1), official)
    before = {k: v.copy() for k, v in flat(file_of(side, 1)).items()}
    x = experiment_on(side.config, official)
    (tmp_path / "run").mkdir()
    state, step = first_state(x, tmp_path / "run"), our_step(x)
    assert int(state.step) == STEPS_PER_EPOCH

    # One step on both sides.
    state, row = step(state, STEPS_PER_EPOCH)
    got = save_and_convert(x, state, tmp_path / "run", tmp_path / "back.pth.tar")
    loss = torch_step(side, STEPS_PER_EPOCH)
    want = file_of(side, 1)
    np.testing.assert_allclose(float(row["loss"]), loss, rtol=1e-4)
    assert_close(flat(got), flat(want), before)
    assert list(got["state_dict"]) == list(want["state_dict"])
    for tensor, other in zip(got["state_dict"].values(), want["state_dict"].values()):
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype)

    # PyTorch resumes from our file.
    resumed = CASES[name]()
    state_dict = {k.removeprefix("module."): v for k, v in got["state_dict"].items()}
    resumed.model.load_state_dict(state_dict)
    resumed.optimizer.load_state_dict(got["optimizer"])
    losses = [torch_step(each, STEPS_PER_EPOCH + 1) for each in (side, resumed)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert ("scaler" in got) == ("scaler" in want)

    # Three steps here: what is written is what there is.
    for number in (1, 2):
        state, _ = step(state, STEPS_PER_EPOCH + number)
    save_and_convert(x, state, tmp_path / "run", tmp_path / "again.pth.tar")
    again = convert.read(tmp_path / "again.pth.tar", heads=4 if "ViT" in name else None)
    assert_nothing_lost(state, again, convert.read(official, heads=4 if "ViT" in name else None))
