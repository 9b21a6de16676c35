"""Schedules, masks, freezing, clipping, descriptions and bad values of the optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.config import OPTIMIZERS, default
from moco_jax.optim import (
    describe_optimizer,
    layer_scales,
    make_optimizer,
    make_schedule,
    parameter_groups,
)


def make_config(**overrides):
    optim = default().optim
    optim.update(overrides)
    return optim


def make_params():
    def ones(*shape):
        return np.ones(shape, np.float32)

    return {
        "backbone": {
            "conv1": {"kernel": ones(3, 3, 2, 4)},
            "bn1": {"scale": ones(4), "bias": 0 * ones(4)},
            "cls_token": ones(1, 1, 4),
        },
        "projector": {"linear1": {"kernel": ones(4, 2), "bias": ones(2)}},
    }


def update(optim, grads, params, rate=0.5):
    optimizer = make_optimizer(optim, params, lambda step: jnp.float32(rate))
    return jax.jit(optimizer.update)(grads, optimizer.init(params), params)


# Schedules


def test_cosine_with_warmup_at_the_points_that_are_known():
    optim = make_config(base_lr=0.3, warmup_epochs=10.0)
    schedule = jax.jit(make_schedule(optim, 512, 1000, 10.0))
    steps = [0, 50, 100, 550, 1000, 2000]
    np.testing.assert_allclose([schedule(t) for t in steps], [0, 0.3, 0.6, 0.3, 0, 0], atol=1e-6)
    assert schedule(jnp.int32(3)).dtype == jnp.float32


def test_step_schedule_drops_at_its_epochs():
    optim = make_config(base_lr=1.0, schedule="step", step_epochs=(120, 160), warmup_epochs=1.0)
    schedule = jax.jit(make_schedule(optim, 256, 2000, 10.0))
    steps = [5, 10, 1199, 1200, 1599, 1600, 1999]
    np.testing.assert_allclose(
        [schedule(t) for t in steps], [0.5, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6
    )


def test_step_schedule_without_drops_is_constant():
    schedule = make_schedule(make_config(base_lr=1.0, schedule="step", step_epochs=()), 256, 9, 3.0)
    assert schedule(0) == schedule(8) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"warmup_epochs": 10.0}, "warmup_epochs=10.0: expected 0 or more and below the 10"),
    ],
)
def test_bad_schedule(overrides, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(make_config(**overrides), 256, 100, 10.0)


# Masks


def test_groups_cover_every_parameter_and_count_dimensions_as_pytorch_does():
    optim = make_config(exclude_1d=True, freeze=("backbone/conv1", "linear1/bias$"))
    assert parameter_groups(optim, make_params()) == {
        "backbone": {
            "conv1": {"kernel": "frozen"},
            "bn1": {"scale": "excluded", "bias": "excluded"},
            "cls_token": "regular",
        },
        "projector": {"linear1": {"kernel": "regular", "bias": "frozen"}},
    }
    everything = jax.tree.leaves(parameter_groups(make_config(), make_params()))
    assert everything == ["regular"] * 6


def test_exclusion_by_path():
    groups = parameter_groups(make_config(exclude=("cls_token", "bn1/")), make_params())
    assert groups["backbone"] == {
        "conv1": {"kernel": "regular"},
        "bn1": {"scale": "excluded", "bias": "excluded"},
        "cls_token": "excluded",
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_zero_gradient_only_regular_parameters_move(name):
    params = make_params()
    optim = make_config(name=name, weight_decay=0.1, exclude_1d=True, freeze=("linear1",))
    updates, _ = update(optim, jax.tree.map(np.zeros_like, params), params)
    moved = jax.tree.map(lambda u: bool(np.all(u)), updates)
    groups = parameter_groups(optim, params)
    assert moved == jax.tree.map(lambda group: group == "regular", groups)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_have_no_optimizer_state(name):
    params = make_params()
    frozen = make_optimizer(make_config(name=name, freeze=("conv1",)), params, lambda step: 1.0)
    size = sum(x.size for x in jax.tree.leaves(frozen.init(params)) if x.ndim)
    moments = 2 if name in ("adamw", "lamb") else 1
    assert size == moments * (4 + 4 + 4 + 8 + 2)


def test_optimizer_is_built_from_shapes_alone():
    params = make_params()
    optim = make_config(exclude_1d=True, freeze=("conv1",))
    shapes = jax.eval_shape(lambda: params)
    state = make_optimizer(optim, shapes, lambda step: 1.0).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(
        make_optimizer(optim, params, lambda step: 1.0).init(params)
    )
    assert describe_optimizer(optim, shapes) == describe_optimizer(optim, params)


def test_clipping_measures_trained_gradients_only():
    params = make_params()
    grads = jax.tree.map(np.ones_like, params)
    grads["backbone"]["conv1"]["kernel"] *= 1e6
    optim = make_config(weight_decay=0.0, clip_norm=1.0, freeze=("conv1",))
    updates, _ = update(optim, grads, params, rate=1.0)
    norm = np.sqrt(sum(np.sum(np.square(u)) for u in jax.tree.leaves(updates)))
    np.testing.assert_allclose(norm, 1, rtol=1e-6)
    assert not np.any(updates["backbone"]["conv1"]["kernel"])
    optim.clip_norm = 100.0
    updates, _ = update(optim, grads, params, rate=1.0)
    np.testing.assert_allclose(updates["projector"]["linear1"]["bias"], -1)


# Layer decay

LAYERS = ("backbone/conv1", "backbone/layer1_1", "backbone/layer1_10")


def make_layers():
    one = np.ones(2, np.float32)
    names = ("conv1", "bn1", "layer1_1", "layer1_10", "norm")
    return {"backbone": {name: {"w": one} for name in names}, "projector": {"fc1": {"w": one}}}


def test_layer_decay_falls_from_the_heads_to_the_stem():
    scales = layer_scales(make_config(layer_decay=0.5), make_layers(), LAYERS)
    found = {path: layer["w"] for net in scales.values() for path, layer in net.items()}
    assert found == {
        "conv1": 0.125, "bn1": 0.125, "layer1_1": 0.25, "layer1_10": 0.5, "norm": 1.0, "fc1": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_decay_scales_the_whole_step_and_leaves_the_state(name):
    params = make_layers()
    grads = jax.tree.map(lambda p: np.float32(0.3) * p, params)
    results = []
    for decay, layers in ((1.0, LAYERS), (0.5, LAYERS)):
        optim = make_config(name=name, layer_decay=decay, weight_decay=0.1, freeze=("bn1",))
        tx = make_optimizer(optim, params, lambda step: jnp.float32(0.5), layers)
        results.append(jax.jit(tx.update)(grads, tx.init(params), params))
    (plain, state), (decayed, same) = results
    scales = layer_scales(optim, params, LAYERS)
    jax.tree.map(lambda u, s, d: np.testing.assert_allclose(u * s, d), plain, scales, decayed)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    assert np.all(plain["backbone"]["conv1"]["w"] != 0)


def test_description_of_layer_decay():
    lines = describe_optimizer(make_config(layer_decay=0.5), make_layers(), LAYERS)
    assert lines[-1] == (
        "sgd: learning rate times 0.125 at backbone/conv1 to 0.5 at backbone/layer1_10, "
        "1 at 2 leaves, 4 parameters: backbone/norm/w, projector/fc*/w"
    )


# Descriptions and errors


def test_description_names_and_counts_every_group():
    optim = make_config(name="lars", weight_decay=1e-6, exclude_1d=True, freeze=("backbone/conv1",))
    assert describe_optimizer(optim, make_params()) == [
        "lars: decay 1e-06, trust ratio times 0.001: 2 leaves, 12 parameters: "
        "backbone/cls_token, projector/linear*/kernel",
        "lars: no decay, no trust ratio: 3 leaves, 10 parameters: "
        "backbone/bn*/bias, backbone/bn*/scale, projector/linear*/bias",
        "lars: frozen: 1 leaf, 72 parameters: backbone/conv*/kernel",
    ]


def test_description_shortens_long_lists():
    params = {f"block{i}": {c: np.ones(2) for c in "abcdefghij"} for i in range(3)}
    regular, excluded, frozen = describe_optimizer(make_config(), params)
    assert regular.startswith("sgd: decay 0.0001: 30 leaves, 60 parameters: block*/a, block*/b, ")
    assert regular.endswith("block*/h and 2 more")
    assert (excluded, frozen) == ("sgd: no decay: none", "sgd: frozen: none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"exclude": ("cls_tokens",)}, "optim.exclude: 'cls_tokens' matches no .*/cls_token"),
        ({"freeze": ("backbone/conv2",)}, "'backbone/conv2' matches no .*: backbone/conv1, "),
        ({"freeze": ("conv1", "nothing")}, "'nothing' matches no"),
        ({"freeze": ("conv(1",)}, "'conv\\(1' is not valid"),
        ({"freeze": ("backbone", "projector")}, "leaves no parameter to train"),
    ],
)
def test_bad_optimizer(overrides, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(make_config(**overrides), make_params(), lambda step: 1.0)
