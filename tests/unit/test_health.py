"""A run that does not train says so: nothing to train, nothing finite, nothing but one feature."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from moco_jax import checkpoint, metrics, signs
from moco_jax.errors import InputError, TrainingDivergedError
from moco_jax.methods.method import Batch
from moco_jax.training import experiment, health, loop
from tests.tiny import probe_config, tiny_config, write_npz


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz", test_images=36)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("v1", {"optim.freeze": (".",)}, "leaves no parameter to train"),
        ("v3", {"optim.freeze": ("backbone", "projector", "predictor")}, "leaves no parameter"),
        ("v1", {"model.name": "pixels"}, "'pixels' has nothing that pre-training trains"),
        ("v3", {"model.name": "pixels", "optim.freeze": ()}, "'pixels' has nothing that pre-"),
    ],
)
def test_nothing_to_train_is_refused_when_built(method, change, message, source):
    c = tiny_config(method, source)
    c.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        experiment.build(c)


def test_heads_alone_can_be_trained(source):
    c = tiny_config("v1", source)
    c.optim.freeze = ("backbone",)
    x = experiment.build(c)
    batch = jax.eval_shape(lambda: experiment.fresh_state(x))
    with experiment.train_batches(x, 0) as batches:
        _, row = jax.eval_shape(experiment.make_step(x), batch, batches.get())
    assert "grad_norm" in row
    assert "grad_norm_first" not in row


def test_a_run_whose_every_step_was_skipped_is_no_complete_run(source, tmp_path):
    """And stays none when the same command comes again."""
    c = probe_config(source)
    c.data.update(mean=(0.5,), std=(1e-38,))  # pixels are infinite already
    c.model.name, c.epochs, c.evals.names = "pixels", 1.0, ()
    for _ in range(2):
        with pytest.raises(TrainingDivergedError, match="in any of the 5 steps: nothing was"):
            loop.run(c, tmp_path / "run")


def test_the_checkpoints_that_are_called_good_are_good(source, tmp_path):
    """Weights of 1e28 are finite; what they make of an image is not."""
    c = tiny_config("v3", source)
    c.optim.update(base_lr=1e30, warmup_epochs=3.0)
    c.evals.names = ()
    c.log.max_nonfinite, c.checkpoint.every_steps, c.checkpoint.keep_last = 3, 1, 20
    with pytest.raises(TrainingDivergedError) as caught:
        loop.run(c, tmp_path / "run")
    text = str(caught.value)
    good = int(text.split("Checkpoint ")[1].split(" is good")[0])
    bad = text.split("a step was finite. ")[1].split(": these")[0]
    steps = {int(p.name): p for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert bad == ", ".join(str(step) for step in sorted(steps) if step > good)
    x = experiment.build(c)
    names = checkpoint.named(experiment.abstract_state(x))
    for position, expected in ((good, True), (good + 1, False)):
        leaves, _ = checkpoint.read(steps[position])
        assert all(np.isfinite(leaf).all() for leaf in leaves.values())
        tree = jax.tree.unflatten(jax.tree.structure(experiment.abstract_state(x)),
                                  [leaves[name] for name in names])  # fmt: skip
        with experiment.train_batches(x, position) as batches:
            batch = Batch(batches.get(), x.augment)
        key = jax.random.key(0)
        loss, _ = jax.jit(x.task.loss)(tree.params, tree.method_state, batch, key, tree.step)
        assert np.isfinite(loss) == expected


@pytest.mark.parametrize(
    ("updates", "skipped", "message"),
    [
        (0, (5, 5), "in any of the 5 steps: nothing was trained"),
        (9, (3, 3), "not finite in 3 steps in a row, up to step 12.*the state is that of step 9"),
        (9, (3, 2), None),
        (9, (0, 0), None),
        (0, (0, 0), None),
    ],
)
def test_the_end_of_a_run_is_judged(updates, skipped, message, caplog):
    """The last steps too, which no later step would show."""
    there = SimpleNamespace(wait=lambda: None, saved=list)
    if message:
        with pytest.raises(TrainingDivergedError, match=message):
            health.check_end(there, 3, updates, skipped)
    else:
        health.check_end(there, 3, updates, skipped)
        assert ("3 of 12 steps were left out" in caplog.text) == (skipped[0] == 3)


def test_images_that_are_all_alike_collapse_and_that_is_said_once(tmp_path, caplog):
    images = np.zeros((80, 12, 12, 1), np.uint8)
    np.savez(tmp_path / "black.npz", images=images)
    c = tiny_config("v3", f"npz:{tmp_path}/black.npz")
    c.epochs, c.log.every_steps, c.checkpoint.every_steps, c.evals.names = 1.0, 1, 2, ()
    assert loop.run(c, tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "5")
    assert loop.run(c, tmp_path / "run") == 0  # from step 2 on
    assert caplog.text.count("COLLAPSE: the features of different images are all but equal") == 1
    rows = metrics.read(tmp_path / "run")
    assert rows[-1]["feature_std"] < signs.COLLAPSED
    assert [row["step"] for row in rows if "collapse" in row.get("signs", ())] == [1]
    assert "Sign of trouble: collapse, 1 x, first at step 1" in loop.summary(tmp_path / "run")
