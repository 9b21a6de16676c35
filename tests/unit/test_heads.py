"""A sweep's heads are independent: one that leaves the numbers is frozen, and no other sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax import checkpoint, metrics, results
from moco_jax.evals.accuracy import Accuracy, report
from moco_jax.protocols import heads
from moco_jax.training import loop
from tests.tiny import probe_config, write_npz

RATES = (0.03, 1.0)
BAD = 1e38  # its first step leaves float32


def sweep(tmp_path, name, *more):
    """The last state of a probe of raw pixels, as they are and after BatchNorm; its workdir."""
    c = probe_config(write_npz(tmp_path / "images.npz", test_images=36))
    c.model.name, c.optim.momentum, c.optim.weight_decay = "pixels", 0.9, 1e-3
    c.supervised.update(lrs=(*RATES, *more), batch_norm=True, held_out=0.2)
    assert loop.run(c, tmp_path / name) == 0
    steps = sorted((tmp_path / name / "checkpoints").glob("*"), key=lambda p: int(p.name))
    return checkpoint.read(steps[-1])[0], tmp_path / name


def test_others_train_bit_for_bit_as_without_a_head_that_is_not_finite(tmp_path, caplog):
    without, _ = sweep(tmp_path, "without")
    state, workdir = sweep(tmp_path, "with", BAD)
    assert state["method_state/alive"].tolist() == [True, True, True, False] * 2
    assert state["skipped"].tolist() == [0, 0]
    for name, leaf in without.items():
        if name.startswith(("params/classifier/", "opt_state/")):
            others = state[name][[0, 1, 2, 4, 5, 6]]
            np.testing.assert_array_equal(others, leaf, err_msg=name)
    assert all(np.isfinite(leaf).all() for leaf in state.values())
    assert caplog.text.count("Frozen: head 3 (base rate 1e+38), whose loss or gradient") == 1
    assert "Frozen: head 7 (base rate 1e+38, after BatchNorm)" in caplog.text
    (record,) = results.read(workdir)
    frozen = [head.get("frozen", False) for head in record["settings"]["sweep"]]
    assert frozen == [False, False, False, True] * 2
    assert metrics.read(workdir)[-1]["frozen_heads"] == 2


def guarded(gradients, alive=(True, True, True)):
    grads = {"backbone": jnp.zeros(2), "classifier": {"kernel": jnp.array(gradients)[:, None]}}
    loss, grads, state = heads.guard(jnp.float32(1), grads, {"alive": jnp.array(alive)})
    return float(loss), grads["classifier"]["kernel"][:, 0].tolist(), state["alive"].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_gradient_that_is_not_finite_does_not_reach_the_others(bad):
    """1e30: finite, but not the square that the norm takes."""
    assert guarded([1.0, bad, 2.0]) == (1.0, [1.0, 0.0, 2.0], [True, False, True])


def test_what_was_frozen_stays_frozen():
    found = guarded([1.0, 5.0, 2.0], alive=(True, False, True))
    assert found == (1.0, [1.0, 0.0, 2.0], [True, False, True])


def test_a_step_in_which_no_head_is_finite_is_left_out():
    loss, gradients, _ = guarded([np.nan, 5.0, np.inf], alive=(True, False, True))
    assert np.isnan(loss)
    assert gradients == [0.0, 0.0, 0.0]


def test_the_choice_leaves_frozen_heads_out_and_the_own_head_too():
    top1 = np.array([0.9, 0.5, 0.7])
    test, held_out = Accuracy(top1, None, 9), Accuracy(top1, None, 9)
    assert report(test, held_out, np.array([False, True, True])) == {
        "test_top1": 0.7, "head": 2, "held_out_top1": 0.7,
    }  # fmt: skip
    assert report(test, held_out)["head"] == 0


def test_one_head_alone_is_skipped_as_any_other_training(tmp_path):
    c = probe_config(write_npz(tmp_path / "images.npz", test_images=36))
    c.model.name, c.optim.base_lr, c.log.max_nonfinite = "pixels", BAD, 3
    with pytest.raises(loop.TrainingDivergedError, match="not finite in 3 steps in a row"):
        loop.run(c, tmp_path / "run")


def test_hold_keeps_parameters_and_optimizer_of_frozen_heads():
    from moco_jax.training.step import TrainState

    def state(value):
        array = jnp.full((2, 3), value)
        params = {"backbone": jnp.zeros(3), "classifier": {"kernel": array}}
        alive = {"alive": jnp.array([True, False])}
        return TrainState(jnp.int32(value), jnp.zeros(2), params, {"count": array[:, 0]}, alive)

    held = jax.jit(heads.hold)(state(1), state(2))
    assert held.params["classifier"]["kernel"].tolist() == [[2] * 3, [1] * 3]
    assert (held.opt_state["count"].tolist(), int(held.step)) == ([2, 1], 2)
