"""Twenty steps of each method that MoCo is measured against, beside the same in PyTorch.

Both start from PyTorch's random weights and see the same views, with SGD, momentum, decay and a
cosine rate. Every loss, and at the end every parameter, statistic, row of a bank or queue and
weight of a momentum encoder agree to 1e-4 (rows 1e-3) of the largest value of their tensor; PyTorch
computes in float64, ours in float32.
"""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from moco_jax import config
from moco_jax.checkpoint import named
from moco_jax.methods import Facts, make_method
from moco_jax.methods.method import Batch
from moco_jax.ops.bank import draw_rows
from moco_jax.optim import make_optimizer, make_schedule, parameter_groups
from moco_jax.training.step import init_state, make_train_step
from tests.parity.torch_methods import byol, end_to_end, memory_bank, simclr, swav
from tests.parity.torch_methods.networks import SIZE, WIDTH, ours
from tests.parity.torch_moco import cosine_rate

pytestmark = pytest.mark.parity
B, STEPS, SMALL, ROWS = 16, 20, 32, 25
IMAGES, STEPS_PER_EPOCH = memory_bank.IMAGES, memory_bank.IMAGES / 16
# Small steps: what rounding does grows with them, fast in a small ResNet.
PEAK, DECAY = 0.001, 1e-2


def head(layers, **options):
    return {"layers": layers, "hidden": 32, "out": 16, "bn": layers > 1} | options


def order_of(key):
    """In which `end_to_end` shuffles the keys."""
    return jax.random.permutation(jax.random.fold_in(key, 1), B)


def rows_of(key):
    """The rows of the bank that `memory_bank` draws."""
    return draw_rows(key, ROWS, IMAGES)


# name: (the model in PyTorch, options of `config.method`, what a step draws, views)
METHODS = {
    "end_to_end": (
        end_to_end.EndToEnd,
        {"temperature": 0.2, "bn_group_size": 8, "projector": head(1)},
        order_of,
        2,
    ),
    "memory_bank": (
        lambda vit: memory_bank.MemoryBank(vit, nce=False),
        {"temperature": 0.2, "bn_group_size": 8, "projector": head(1), "queue_size": ROWS},
        rows_of,
        1,
    ),
    "memory_bank, nce": (
        lambda vit: memory_bank.MemoryBank(vit, nce=True),
        {
            "temperature": 0.2, "bn_group_size": 8, "projector": head(1), "queue_size": ROWS,
            "bank_loss": "nce",
        },
        rows_of,
        1,
    ),
    "simclr": (
        simclr.SimClr,
        {"temperature": 0.5, "projector": head(2, bias=False, last_bn=True)},
        None,
        2,
    ),
    "byol": (
        byol.Byol,
        {"ema": byol.MOMENTUM, "ema_schedule": "cosine", "projector": head(2),
         "predictor": head(2)},
        None,
        2,
    ),
    "swav": (
        lambda vit: swav.Swav(vit, queue=False),
        {"projector": head(2), "queue_size": 0, "swav": {"small_views": 2}},
        None,
        4,
    ),
    "swav, queue": (
        lambda vit: swav.Swav(vit, queue=True),
        {"projector": head(2), "queue_size": swav.QUEUE, "swav": {"small_views": 2}},
        None,
        4,
    ),
}  # fmt: skip


def config_of(name, vit):
    c, options = config.default(), METHODS[name][1]
    c.method.update({"name": name.split(",")[0], "bn_group_size": 0} | options)
    if name.startswith("swav"):
        c.method.temperature = swav.TEMPERATURE
        c.method.swav.update(
            prototypes=swav.PROTOTYPES,
            frozen_epochs=swav.FROZEN / STEPS_PER_EPOCH,
            queue_from_epoch=swav.QUEUE_FROM / STEPS_PER_EPOCH,
        )
    c.model.name, c.model.resnet.width = "vit_tiny" if vit else "resnet18", 1 / 8
    c.model.vit.update(width=WIDTH, depth=2, heads=4)
    c.data.update(batch_size=B, image_size=SIZE)
    c.data.small_view.size = SMALL
    c.optim.update(base_lr=PEAK * 256 / B, weight_decay=DECAY, warmup_epochs=0.0)
    c.optim.freeze = ("backbone/patch_embed",) if vit else ()
    return c


def batch_of(step, views):
    """Views (B, S, S, 3) of random images, each with a pattern of its own that they share."""
    rng = np.random.default_rng(step)
    sizes = [SIZE, SIZE, SMALL, SMALL][:views]
    pattern = rng.normal(size=(B, 4, 4, 3))
    images = [
        np.kron(pattern, np.ones((1, size // 4, size // 4, 1)))
        + rng.normal(size=(B, size, size, 3))
        for size in sizes
    ]
    index = rng.permutation(IMAGES)[:B].astype(np.int32)
    return [image.astype(np.float32) for image in images], index


def trees_of(model):
    """(params, method_state) of a PyTorch model under our names; statistics of one group."""
    names = [n for n in ("backbone", "projector", "predictor") if hasattr(model, n)]
    params, stats = ours(**{name: getattr(model, name) for name in names})
    state = {"stats": stats}
    if hasattr(model, "target"):
        target, stats = ours(backbone=model.target[0], projector=model.target[1])
        state["target"] = {"params": target, "stats": stats}
    if hasattr(model, "prototypes"):
        params["prototypes"] = {"kernel": model.prototypes.detach().float().numpy()}
    if hasattr(model, "bank"):
        state["bank"] = model.bank.float().numpy()
    if getattr(model, "queue", None) is not None:
        state["queue"] = model.queue.float().numpy().swapaxes(0, 1)
    return params, state


def filled(like, params, method_state):
    """Our state, with these values in it: groups alike, a bank with rows that nothing reads."""
    values = {f"params/{n}": leaf for n, leaf in named(params).items()}
    values |= {f"method_state/{n}": leaf for n, leaf in named(method_state).items()}
    leaves = named(like)
    assert values.keys() <= leaves.keys()
    assert {n for n in leaves if n.startswith("params/")} <= values.keys()
    for name, value in values.items():
        if name.endswith("/bank"):
            value = np.concatenate([value, leaves[name][len(value) :]])
        leaves[name] = jnp.asarray(np.broadcast_to(value, leaves[name].shape))
    return jax.tree.unflatten(jax.tree.structure(like), list(leaves.values()))


def make_ours(c, views):
    """The fresh state, and the function (state, views, index) -> (state, metrics)."""
    method = make_method(c, Facts(IMAGES, 0, (SIZE, SIZE, 3), STEPS, STEPS_PER_EPOCH))
    assert len(method.views) == views
    schedule = make_schedule(c.optim, B, STEPS, STEPS_PER_EPOCH)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    frozen = jax.tree.map(lambda group: group == "frozen", parameter_groups(c.optim, params))
    tx = make_optimizer(c.optim, params, schedule)
    step = make_train_step(method, tx, schedule, frozen, c.seed)

    @jax.jit
    def run(state, crops, index):
        return step(state, Batch({"crops": crops, "index": index}, lambda x, i: x["crops"][i]))

    return jax.jit(lambda key: init_state(method, tx, key))(jax.random.key(0)), run


def torch_step(model, optimizer, step, crops, index, drawn):
    crops = [torch.tensor(np.moveaxis(crop, -1, 1)).double() for crop in crops]
    loss = model(crops, torch.tensor(index).long(), drawn)
    optimizer.zero_grad()
    loss.backward()
    model.before_step(step)
    optimizer.step()
    model.after_step(step)
    return loss.item()


@pytest.fixture
def smooth(monkeypatch):
    """SiLU for ReLU and mean for maximum on both sides: where a ReLU's input is zero but for
    rounding, or two pixels are equal, gradients jump, and 20 steps make of that 1e-2. The networks
    themselves are held to PyTorch's elsewhere."""
    functional = torch.nn.functional

    def mean(x, *window):  # of 3 x 3; flax's own mixes dtypes
        return flax.linen.pooling.pool(x, 0.0, jax.lax.add, *window) / 9.0

    monkeypatch.setattr(flax.linen, "max_pool", mean)
    monkeypatch.setattr(functional, "max_pool2d", functional.avg_pool2d)
    monkeypatch.setattr(flax.linen, "relu", jax.nn.silu)
    monkeypatch.setattr(torch.Tensor, "relu", functional.silu)
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, x: functional.silu(x))


@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("vit", [False, True], ids=["resnet", "vit"])
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps(name, vit):
    torch.manual_seed(0)
    make, _, draw, views = METHODS[name]
    c, model = config_of(name, vit), make(vit).double().train()
    for attribute in ("bank", "queue"):
        if getattr(model, attribute, None) is not None:
            setattr(model, attribute, getattr(model, attribute).double())
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9, weight_decay=DECAY)
    state, run = make_ours(c, views)
    before = trees_of(model)
    state = filled(state, *before)
    for step in range(STEPS):
        crops, index = batch_of(step, views)
        key = jax.random.fold_in(jax.random.key(c.seed), step)
        drawn = torch.tensor(np.asarray(draw(key))).long() if draw else None
        optimizer.param_groups[0]["lr"] = cosine_rate(PEAK, step, STEPS)
        want = torch_step(model, optimizer, step, crops, index, drawn)
        state, row = run(state, tuple(map(jnp.asarray, crops)), index)
        np.testing.assert_allclose(row["loss"], want, rtol=1e-4, err_msg=f"step {step}")
    assert int(state.skipped[0]) == 0
    got = {"params": state.params, "method_state": state.method_state}
    assert_close(*map(flat, (got, trees_of(model), before)))


def flat(trees):
    """(params, method_state) by name, or a dict of them."""
    trees = trees if isinstance(trees, dict) else dict(zip(("params", "method_state"), trees))
    return {name: np.asarray(leaf, np.float64) for name, leaf in named(trees).items()}


def assert_close(got, want, before):
    """A parameter without a gradient but roundings has nothing to compare: 1e-3 is its scale."""
    changed = 0
    for name, wanted in want.items():
        value = got[name]
        if "/stats/" in name:
            value = value.mean(0, keepdims=True)
        if name.endswith("/bank"):
            value = value[:IMAGES]
        if name.endswith("/queue"):
            value = np.roll(value, -int(got["method_state/queue_ptr"]), axis=0)
        error, scale = np.abs(value - wanted).max(), max(np.abs(wanted).max(), 1e-3)
        # Features, in a bank or queue, are what roundings of all parameters have led to: with the
        # small batch of a ResNet up to 6e-4 was seen.
        tolerance = 1e-3 if name.endswith(("/bank", "/queue")) else 1e-4
        assert error <= tolerance * scale, (name, error / scale)
        changed += np.abs(wanted - before[name]).max() > 1e-3 * scale
    assert changed > 0.5 * len(want), "steps that change little prove little"
