"""Stopped and killed at every stage: nothing is lost, the same command ends bitwise the same."""

import random
import signal
import time

import pytest

from tests.faults.runs import LAST, SAVE, STEP, Run, complete, saved, steps

pytestmark = pytest.mark.faults
COMPILE = "moco_jax.training.loop:compile_step"
START, EVALUATE = "moco_jax.files:prepare_workdir", "moco_jax.evals.knn_monitor:KnnMonitor.measure"
PLACES = [(START, 1, ""), (COMPILE, 1, ""), (STEP, 4, "4"), (EVALUATE, 1, "10"), (SAVE, 2, None)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_stage_is_a_clean_stop(number, home, undisturbed, tmp_path):
    """One run, stopped at start-up, in compilation, a step, an evaluation and a save."""
    for place, call, at in PLACES:
        with Run(home, tmp_path, gate=f"{place}#{call}") as run:
            run.at_gate().signal(number)
            time.sleep(0.2)
            text = run.go().end(75)
        name = number.name
        if at == "":
            assert f"{name} outside of training steps: nothing to save" in text
        else:
            assert f"{name}: saving and stopping" in text
            assert at is None or saved(tmp_path, steps(tmp_path)[-1])
    complete(home, tmp_path)
    assert saved(tmp_path) == undisturbed
    assert steps(tmp_path) == list(range(LAST + 1)), "one row a step, none twice"


@pytest.mark.parametrize("part", range(3))
def test_killed_at_random_moments(part, home, undisturbed, tmp_path):
    """By SIGKILL at a random step or save, a random time into it; 30 times in all."""
    rng = random.Random(seed := f"{time.time()} {part}")
    print(f"seed {seed!r}")  # shown where it fails
    for _ in range(10):
        place = rng.choice([f"{STEP}#{rng.randint(1, 3)}", f"{SAVE}#1", f"{COMPILE}#1"])
        with Run(home, tmp_path, gate=place) as run:
            run.at_gate().go()
            time.sleep(rng.uniform(0, 0.2))
            run.signal(signal.SIGKILL)
            run.process.wait()
    complete(home, tmp_path)
    assert saved(tmp_path) == undisturbed
    assert steps(tmp_path) == list(range(LAST + 1))
