import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moco_jax import mesh
from moco_jax.methods.method import Batch, Method, Rows
from moco_jax.training import experiment
from moco_jax.training.step import init_state, make_train_step
from tests.tiny import tiny_config, write_npz


def toy_method():
    """Loss |w| * scale of the batch, a method state that counts calls."""

    def init(key):
        return {"backbone": {"first": jnp.ones(3), "last": jnp.ones(2)}}, {"calls": jnp.int32(0)}

    def loss(params, state, batch, key, step):
        value = sum(jnp.sum(leaf**2) for leaf in params["backbone"].values()) * batch["scale"]
        return value, ({"calls": state["calls"] + 1}, {})

    layers = ("backbone/first", "backbone/last")
    return Method(init, loss, None, 0.0, layers, views=(), layout=mesh.WHOLE)


def remembering_method(rows=2**16):
    """Loss |w| * scale of the batch; a bank of which each step reads all and writes four rows."""

    def init(key):
        return {"backbone": {"first": jnp.ones(8)}}, {"bank": jnp.ones((rows, 8))}

    def loss(params, state, batch, key, step):
        w = params["backbone"]["first"] * batch["scale"]
        index = jnp.array([3, 1, rows + 1, rows + 2], jnp.int32)  # the last two are left out
        return jnp.mean((state["bank"] @ w) ** 2), ({"bank": Rows(index, jnp.tile(w, (4, 1)))}, {})

    layers = ("backbone/first",)
    return Method(init, loss, None, 0.0, layers, views=(), layout=mesh.WHOLE)


@pytest.mark.parametrize("scale", [0.5, np.nan])
def test_rows_are_written_in_place_and_only_by_a_finite_step(scale):
    """The compiled step needs no second bank: neither to write to, nor to choose from."""
    tx, method = optax.sgd(schedule), remembering_method()
    step = make_train_step(method, tx, schedule, {"backbone": {"first": False}}, seed=0)
    state = init_state(method, tx, jax.random.key(0))
    batch, size = Batch({"scale": jnp.float32(scale)}, None), state.method_state["bank"].nbytes
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size / 2
    expected = np.ones((2**16, 8), np.float32)
    expected[[1, 3]] = 1.0 if np.isnan(scale) else scale
    state, _ = compiled(state, batch)
    np.testing.assert_array_equal(state.method_state["bank"], expected)


def test_the_queue_of_moco_is_neither_copied_nor_chosen_from(tmp_path, monkeypatch):
    make, rows = mesh.make_mesh, 2**16
    monkeypatch.setattr(mesh, "make_mesh", lambda **options: make(jax.devices()[:1], **options))
    c = tiny_config("v1", write_npz(tmp_path / "images.npz"))
    c.method.queue_size = rows
    x = experiment.build(c)
    with experiment.train_batches(x, 0) as batches:
        lowered = experiment.make_step(x).lower(experiment.abstract_state(x), batches.get())
    made = re.findall(rf"= f32\[{rows},8\]\S* (\w+)\(", lowered.compile().as_text())
    assert "scatter" in made
    assert not {"copy", "select"} & set(made)


def test_a_method_has_the_last_word_on_an_update():
    """Here: held until step 2, and then of length 1; the optimizer's state is held too."""

    def after(before, done):
        w = done.params["backbone"]["first"]
        unit = {"backbone": {"first": w / jnp.linalg.norm(w)}}
        held = jax.tree.map(
            lambda a, b: jnp.where(done.step <= 2, a, b),
            (before.params, before.opt_state),
            (unit, done.opt_state),
        )
        return done._replace(params=held[0], opt_state=held[1])

    tx, method = optax.sgd(schedule, momentum=0.9), remembering_method(16)
    method = method._replace(after_update=after)
    step = make_train_step(method, tx, schedule, {"backbone": {"first": False}}, seed=0)
    step, state = jax.jit(step), init_state(method, tx, jax.random.key(0))
    first = state
    for _ in range(2):
        state, _ = step(state, Batch({"scale": jnp.float32(0.5)}, None))
    jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    momentum = jax.tree.leaves(state.opt_state)[0]
    np.testing.assert_array_equal(momentum, np.zeros_like(momentum))
    state, _ = step(state, Batch({"scale": jnp.float32(0.5)}, None))
    np.testing.assert_allclose(jnp.linalg.norm(state.params["backbone"]["first"]), 1, rtol=1e-6)


def schedule(step):
    return 1.0 - step.astype(jnp.float32) / 10.0


def run(scales, frozen=(False, False)):
    tx = optax.sgd(schedule, momentum=0.9)
    mask = {"backbone": {"first": frozen[0], "last": frozen[1]}}
    method = toy_method()
    step = make_train_step(method, tx, schedule, mask, seed=0)
    step, state, rows = jax.jit(step), init_state(method, tx, jax.random.key(0)), []
    for scale in scales:
        state, row = step(state, Batch({"scale": jnp.float32(scale)}, None))
        rows.append(row)
    return state, rows


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    """1e38: the loss is finite, the gradient's norm is not."""
    good, _ = run([1.0, 2.0])
    state, rows = run([1.0, bad, 2.0])
    assert int(state.skipped[0]) == 1
    assert int(rows[1]["skipped_in_a_row"]) == 1
    assert int(rows[2]["skipped_in_a_row"]) == 0
    assert int(state.step) == 2
    assert int(state.position) == 3
    same = state._replace(skipped=good.skipped)
    jax.tree.map(np.testing.assert_array_equal, same, good)


def test_counts_bad_steps_in_a_row():
    _, rows = run([1.0, np.nan, np.nan, np.nan])
    assert [int(row["skipped_in_a_row"]) for row in rows] == [0, 1, 2, 3]


def test_frozen_parameters_have_no_gradient_and_do_not_count_as_first_layer():
    _, (row,) = run([1.0])
    _, (frozen,) = run([1.0], frozen=(True, False))
    np.testing.assert_allclose(row["grad_norm_first"], 2 * 3**0.5, rtol=1e-6)
    np.testing.assert_allclose(row["grad_norm"], 2 * 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(frozen["grad_norm_first"], 2 * 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(frozen["grad_norm"], 2 * 2**0.5, rtol=1e-6)


def test_logs_the_learning_rate_that_it_used():
    _, rows = run([1.0, np.nan, 1.0])
    np.testing.assert_allclose([r["learning_rate"] for r in rows], [1.0, 0.9, 0.9], rtol=1e-6)
