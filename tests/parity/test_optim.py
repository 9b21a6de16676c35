"""Optimizers over 30 steps under a schedule, against float64 PyTorch or a port in NumPy.

The gradient depends on the parameters, so that a deviation in one step grows in the next.
Tolerance, of a leaf's largest value: 1e-6 for sgd and lars, some roundings of float32; 3e-5 for
adamw and lamb, whose debiasing loses more (1 - 0.999 is 6e-5 off in float32). What the tests
are to notice deviates by over 1e-3.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay

from moco_jax import models
from moco_jax.config import default
from moco_jax.optim import layer_scales, make_optimizer, make_schedule, parameter_groups
from tests.parity.torch_weights import convert

pytestmark = pytest.mark.parity
STEPS, STEPS_PER_EPOCH, BATCH = 30, 3.7, 1024
FROZEN = "still"
SHAPES = {
    "conv": (3, 3, 4, 8),
    "dense": (16, 5),
    "cls_token": (1, 1, 6),
    "bias": (7,),
    "scalar": (),
    "zero": (4, 3),  # starts at zero
    "zero_bias": (3,),
    "dead": (4, 2),  # starts at zero and has no gradient
    "no_grad": (5, 5),  # has no gradient
    FROZEN: (6, 6),
}


def make_config(**overrides):
    optim = default().optim
    optim.update({"base_lr": 0.05, "warmup_epochs": 2.0, "freeze": (FROZEN,)} | overrides)
    return optim


def initial_params():
    rng = np.random.default_rng(0)
    return {
        name: (0.0 if name in ("zero", "zero_bias", "dead") else 1.0) * rng.normal(size=shape)
        for name, shape in SHAPES.items()
    }


def noise():
    rng = np.random.default_rng(1)
    return [
        {
            name: (0.0 if name in ("dead", "no_grad") else 1.0) * rng.normal(size=shape)
            for name, shape in SHAPES.items()
        }
        for _ in range(STEPS)
    ]


def gradient(name, p, noise):
    return noise + (0.0 if name in ("dead", "no_grad") else 0.5) * p


def learning_rates(optim):
    """The formula of the released code, in epochs."""
    epochs, peak = STEPS / STEPS_PER_EPOCH, optim.base_lr * BATCH / 256
    warmup, rates = optim.warmup_epochs, []
    for step in range(STEPS):
        t = step / STEPS_PER_EPOCH
        if t < warmup:
            rates.append(peak * t / warmup)
        else:
            rates.append(peak * 0.5 * (1 + np.cos(np.pi * (t - warmup) / (epochs - warmup))))
    return rates


def run_ours(optim):
    params = jax.tree.map(jnp.float32, initial_params())
    schedule = make_schedule(optim, BATCH, STEPS, STEPS_PER_EPOCH)
    optimizer = make_optimizer(optim, params, schedule)

    @jax.jit
    def step(params, state, noise):
        grads = {name: gradient(name, params[name], noise[name]) for name in params}
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, path = optimizer.init(params), []
    for n in noise():
        params, state = step(params, state, jax.tree.map(np.float32, n))
        path.append(params)
    return path


def run_torch(optim, make):
    """`make` builds a torch optimizer from groups of parameters."""
    params = {name: torch.tensor(p, requires_grad=True) for name, p in initial_params().items()}
    trained = {name: p for name, p in params.items() if name != FROZEN}
    excluded = [p for p in trained.values() if optim.exclude_1d and p.ndim <= 1]
    regular = [p for p in trained.values() if not (optim.exclude_1d and p.ndim <= 1)]
    groups = [{"params": regular}, {"params": excluded, "weight_decay": 0.0}]
    optimizer, path = make([group for group in groups if group["params"]]), []
    for rate, n in zip(learning_rates(optim), noise(), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, p in trained.items():
            p.grad = gradient(name, p.detach(), torch.tensor(n[name]))
        if optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(trained.values(), optim.clip_norm)
        optimizer.step()
        path.append({name: p.detach().numpy().copy() for name, p in params.items()})
    return path


def run_port(optim, rule):
    """`rule` (optim, p, g, buffers, t, regular, rate) gives the step to subtract."""
    params, path = initial_params(), []
    buffers = {name: [np.zeros_like(p), np.zeros_like(p)] for name, p in params.items()}
    for t, (rate, n) in enumerate(zip(learning_rates(optim), noise(), strict=True)):
        for name in set(SHAPES) - {FROZEN}:
            p = params[name]
            regular = not (optim.exclude_1d and p.ndim <= 1)
            g = gradient(name, p, n[name])
            params[name] = p - rule(optim, p, g, buffers[name], t, regular, rate)
        path.append(dict(params))
    return path


def trust_ratio(p, step):
    p_norm, norm = np.linalg.norm(p), np.linalg.norm(step)
    return p_norm / norm if p_norm > 0 and norm > 0 else 1.0


def lars(optim, p, g, buffers, t, regular, rate, rate_inside=False):
    if regular:
        g = g + optim.weight_decay * p
        ratio = trust_ratio(p, g)
        both = np.linalg.norm(p) > 0 and np.linalg.norm(g) > 0
        g = g * (optim.trust_coefficient * ratio if both else 1.0)
    buffers[0] = optim.momentum * buffers[0] + (rate * g if rate_inside else g)
    return buffers[0] if rate_inside else rate * buffers[0]


def lars_rate_inside(*arguments):
    return lars(*arguments, rate_inside=True)


def lamb(optim, p, g, buffers, t, regular, rate):
    buffers[0] = optim.b1 * buffers[0] + (1 - optim.b1) * g
    buffers[1] = optim.b2 * buffers[1] + (1 - optim.b2) * g * g
    m, v = buffers[0] / (1 - optim.b1 ** (t + 1)), buffers[1] / (1 - optim.b2 ** (t + 1))
    step = m / (np.sqrt(v) + optim.eps)
    if regular:
        step = step + optim.weight_decay * p
        step = trust_ratio(p, step) * step
    return rate * step


def deviation(path, other):
    """Largest difference over all steps, as a share of the leaf's largest value on the way."""
    largest = 0.0
    for name in SHAPES:
        ours, theirs = (np.stack([np.asarray(p[name]) for p in x]) for x in (path, other))
        difference, size = np.abs(ours - theirs).max(), np.abs(theirs).max()
        largest = max(largest, difference / size if size else difference)
    return largest


def assert_frozen(path):
    np.testing.assert_array_equal(path[-1][FROZEN], initial_params()[FROZEN].astype(np.float32))


MASKS = pytest.mark.parametrize("exclude_1d", [False, True])


@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_schedule(warmup):
    """Tolerance 1e-6 of the peak: the fraction of the run is a float32."""
    optim = make_config(warmup_epochs=warmup)
    schedule = jax.jit(make_schedule(optim, BATCH, STEPS, STEPS_PER_EPOCH))
    rates = learning_rates(optim)
    np.testing.assert_allclose([schedule(t) for t in range(STEPS)], rates, atol=1e-6 * max(rates))


@MASKS
@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 20.0])
def test_sgd(exclude_1d, clip_norm):
    optim = make_config(exclude_1d=exclude_1d, weight_decay=0.1, clip_norm=clip_norm)
    decay, momentum = optim.weight_decay, optim.momentum
    expected = run_torch(
        optim, lambda groups: torch.optim.SGD(groups, momentum=momentum, weight_decay=decay)
    )
    path = run_ours(optim)
    assert deviation(path, expected) < 1e-6
    assert_frozen(path)


@MASKS
def test_adamw(exclude_1d):
    optim = make_config(name="adamw", exclude_1d=exclude_1d, base_lr=0.01, weight_decay=0.5)
    expected = run_torch(
        optim, lambda groups: torch.optim.AdamW(groups, weight_decay=optim.weight_decay)
    )
    path = run_ours(optim)
    assert deviation(path, expected) < 3e-5
    assert_frozen(path)


@MASKS
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars(exclude_1d, weight_decay):
    """A trust coefficient of 0.1 instead of 0.001 makes 30 steps enough to go somewhere."""
    optim = make_config(
        name="lars",
        exclude_1d=exclude_1d,
        weight_decay=weight_decay,
        trust_coefficient=0.1,
    )
    path = run_ours(optim)
    assert deviation(path, run_port(optim, lars)) < 1e-6
    assert deviation(path, run_port(optim, lars_rate_inside)) > 1e-3
    assert_frozen(path)


@MASKS
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb(exclude_1d, weight_decay):
    optim = make_config(name="lamb", exclude_1d=exclude_1d, weight_decay=weight_decay, base_lr=0.01)
    path = run_ours(optim)
    assert deviation(path, run_port(optim, lamb)) < 3e-5
    assert_frozen(path)


@pytest.mark.parametrize(("name", "base_lr"), [("sgd", 0.05), ("adamw", 0.01), ("lamb", 0.01)])
def test_masks_and_decay_are_large_enough_to_be_noticed(name, base_lr):
    paths = [
        run_ours(make_config(name=name, base_lr=base_lr, exclude_1d=mask, weight_decay=decay))
        for mask, decay in ((False, 0.1), (True, 0.1), (False, 0.0))
    ]
    assert deviation(paths[1], paths[0]) > 1e-3
    assert deviation(paths[2], paths[0]) > 1e-3


def timms_groups(field):
    """A field of the group that timm puts each parameter in, in the parameter's place."""
    model = VisionTransformer(img_size=32, embed_dim=48, depth=3, num_heads=3, num_classes=7)
    exceptions = model.no_weight_decay()
    with torch.no_grad():
        for group in param_groups_layer_decay(model, 0.05, exceptions, layer_decay=0.65):
            for p in group["params"]:
                p[:] = group[field]
    state = model.state_dict()
    head = {name: state.pop(name) for name in ("head.weight", "head.bias")}
    return {"backbone": convert(state)["params"], "projector": convert(head)["params"]}


def test_layer_decay_and_exclusions_of_a_vision_transformer():
    """Each parameter's share of rate and decay in fine-tuning, against timm's groups.

    But for the last norm: BEiT and MAE have it with the head, timm with the last block.
    """
    record = default().model
    record.name = "vit_tiny"
    record.vit.update(width=48, depth=3, heads=3, position="learned")
    backbone = models.make_backbone(record, 32, 1, jnp.dtype("float32"))
    params = timms_groups("lr_scale")
    optim = make_config(layer_decay=0.65, exclude_1d=True, exclude=("cls_token", "pos_embed"))
    optim.freeze = ()
    scales = layer_scales(optim, params, [f"backbone/{name}" for name in backbone.layers])
    assert set(scales["backbone"].pop("norm").values()) == {1.0}
    assert params["backbone"].pop("norm")["bias"][0] == np.float32(0.65)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(want, got, 1e-6), scales, params)
    groups = {"regular": 0.05, "excluded": 0.0}
    wanted = timms_groups("weight_decay")
    decays = jax.tree.map(groups.get, parameter_groups(optim, wanted))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(want, got, 1e-6), decays, wanted)
