"""More epochs for a run: how its schedules go on, and that it resumes under each."""

import jax
import numpy as np
import pytest

from moco_jax import checkpoint, config, metrics
from moco_jax.errors import CheckpointError, InputError
from moco_jax.identity import refuse_changes
from moco_jax.ops.course import Course, over
from moco_jax.ops.ema import make_ema_schedule
from moco_jax.optim import make_schedule
from moco_jax.training import experiment, loop
from tests.tiny import probe_config, write_npz


def ramp(steps):
    """From 0 to 1 over a run, then 1."""
    return lambda step: np.minimum(step, steps) / steps


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (8, [0, 0.25, 0.5, 0.75, 1, 1]),
        (Course(8, (4,), "stretch"), [0, 0.25, 0.5, 0.75, 1, 1]),
        (Course(8, (4,), "restart"), [0, 0.5, 0, 0.5, 1, 1]),
        (Course(8, (2, 4), "restart"), [0, 0, 0, 0.5, 1, 1]),
        (Course(8, (4,), "hold"), [0, 0.5, 1, 1, 1, 1]),
        (Course(8, (2, 4), "hold"), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules_over_a_course(course, expected):
    schedule = over(course, ramp)
    np.testing.assert_allclose([schedule(t) for t in (0, 2, 4, 6, 8, 9)], expected)


def test_rate_and_ema_of_a_longer_run():
    optim = config.default().optim
    optim.update(base_lr=1.0, warmup_epochs=1.0)
    restart = jax.jit(make_schedule(optim, 256, Course(30, (10,), "restart"), 2.0))
    first, second = (make_schedule(optim, 256, steps, 2.0) for steps in (10, 20))
    for t in range(30):
        np.testing.assert_allclose(restart(t), first(t) if t < 10 else second(t - 10), rtol=1e-6)
    stretched = make_schedule(optim, 256, Course(30, (10,), "stretch"), 2.0)
    assert [float(stretched(t)) for t in (1, 5, 20)] == [
        float(make_schedule(optim, 256, 30, 2.0)(t)) for t in (1, 5, 20)
    ]
    ema = make_ema_schedule("cosine", 0.9, Course(30, (10,), "restart"))
    np.testing.assert_allclose([ema(t) for t in (0, 5, 10, 20, 30)], [0.9, 0.95, 0.9, 0.95, 1.0])
    assert make_ema_schedule("constant", 0.9, Course(30, (10,), "restart"))(25) == np.float32(0.9)


def extended(c, how, epochs=2.0, ends=(1.0,)):
    c = c.copy_and_resolve_references()
    c.epochs, c.extended_from, c.extension = epochs, ends, how
    return c


def small(tmp_path, schedule):
    """A run of 5 steps that compiles in no time."""
    c = probe_config(write_npz(tmp_path / "images.npz", test_images=4))
    c.model.name = "pixels"
    c.epochs, c.log.every_steps, c.evals.names = 1.0, 1, ()
    c.optim.update(schedule=schedule, step_epochs=(0.5,), base_lr=1e-2)
    return c


def last(workdir):
    steps = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return checkpoint.read(steps[-1])[0]


@pytest.mark.parametrize(
    ("how", "schedule", "rates"),
    [
        ("restart", "cosine", "5.97e-05, then 0.000625"),
        ("hold", "step", "6.25e-05, then 6.25e-05"),
        ("stretch", "cosine", "5.97e-05, then 0.000312"),
    ],
)
def test_a_run_made_longer(how, schedule, rates, tmp_path, caplog):
    """Where its schedules up to the old end are the same, bit for bit as if planned so."""
    c = small(tmp_path, schedule)
    assert loop.run(c, tmp_path / "run") == 0
    longer = c.copy_and_resolve_references()
    longer.epochs = 2.0
    with pytest.raises(CheckpointError, match=r"extended_from='\(1,\)' and .*=stretch, restart or"):
        loop.run(longer, tmp_path / "run")
    longer = extended(c, how)
    caplog.set_level("INFO", "moco_jax")
    assert loop.run(longer, tmp_path / "run") == 0
    assert f"at step 5 (1 epochs), extension {how!r}: learning rate {rates}" in caplog.text
    schedule = experiment.build(longer).schedule
    rows = {row["step"]: row for row in metrics.read(tmp_path / "run") if "learning_rate" in row}
    assert set(rows) == set(range(1, 11))
    for step in range(6, 11):
        np.testing.assert_allclose(rows[step]["learning_rate"], schedule(step - 1), rtol=1e-4)
    assert rows[10]["epoch"] == 2.0
    if how != "stretch":
        assert loop.run(longer, tmp_path / "planned") == 0
        whole, again = last(tmp_path / "run"), last(tmp_path / "planned")
        for name, leaf in whole.items():
            np.testing.assert_array_equal(again[name], leaf, err_msg=name)
    assert loop.run(longer, tmp_path / "run") == 0  # the same command has nothing to do


def as_saved(epochs, ends=(), how="stretch"):
    return config.as_json(extended(config.default(), how, epochs, ends))


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        (as_saved(200.0), as_saved(400.0, (200.0,)), True),
        (as_saved(200.0), as_saved(400.0, (200.0,), "restart"), True),
        (as_saved(400.0, (200.0,), "restart"), as_saved(800.0, (200.0, 400.0), "restart"), True),
        (as_saved(400.0, (200.0,), "restart"), as_saved(400.0, (200.0,), "restart"), True),
        (as_saved(200.0), as_saved(400.0), False),
        (as_saved(200.0), as_saved(400.0, (100.0,)), False),
        (as_saved(200.0), as_saved(100.0, (200.0,)), False),
        (as_saved(400.0, (200.0,), "restart"), as_saved(800.0, (400.0,), "restart"), False),
        (as_saved(400.0, (200.0,), "restart"), as_saved(800.0, (200.0, 400.0), "hold"), False),
        (as_saved(400.0, (200.0,), "restart"), as_saved(400.0, (200.0,), "hold"), False),
    ],
)
def test_only_what_was_the_end_before_is_taken(before, after, taken):
    if taken:
        refuse_changes(before, after)
    else:
        with pytest.raises(CheckpointError, match="another config"):
            refuse_changes(before, after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extended_from": (2.0,)}, r"extended_from=\(2.0,\): expected epochs that grow up to"),
        ({"extended_from": (0.6, 0.4)}, "expected epochs that grow"),
        ({"extended_from": (0.5,), "extension": "hold"}, "keeps the last rate, and .* is 0"),
        ({"extension": "holds"}, "did you mean 'hold'"),
        (
            {"extended_from": (0.8,), "extension": "restart", "optim.warmup_epochs": 0.5},
            "warmup_epochs=0.5: expected 0 or more and below the 0.2 epochs",
        ),
    ],
)
def test_extensions_that_cannot_be(change, message, tmp_path):
    c = small(tmp_path, "cosine")
    c.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        experiment.build(c)
