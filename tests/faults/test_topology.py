"""A run that goes on with other devices and processes, and back: the same curve."""

import contextlib
import shutil
import signal

import numpy as np
import pytest

from moco_jax import metrics
from tests.faults.runs import LAST, STEP, Run, complete, steps, two

pytestmark = pytest.mark.faults
AT = 7


@pytest.fixture(scope="module")
def begun(home):
    """A run of one device that was stopped."""
    with Run(home, home / "begun", gate=f"{STEP}#{AT - 1}") as run:
        run.at_gate().signal(signal.SIGTERM).go().end(75)
    return home / "begun"


def losses(workdir):
    return np.array([row["loss"] for row in metrics.read(workdir) if "loss" in row])


@contextlib.contextmanager
def on(devices, processes, home, workdir, **disturbance):
    """So many devices in each of so many processes."""
    limit = f"export JAX_NUM_CPU_DEVICES={devices}"
    if processes == 1:
        with Run(home, workdir, limit=limit, **disturbance) as run:
            yield (run,)
    else:
        with two(home, workdir, limit=limit, **disturbance) as (zero, one, _):
            yield zero, one


@pytest.mark.parametrize(("devices", "processes"), [(2, 1), (8, 1), (1, 2)])
def test_other_devices_and_back(devices, processes, home, begun, undisturbed, tmp_path):
    """Sums run in another order: 1e-5 at first, which training amplifies."""
    shutil.copytree(begun, tmp_path / "run")
    first = steps(begun)[-1]
    with on(devices, processes, home, tmp_path / "run", gate=f"{STEP}#5") as runs:
        for run in runs:
            run.at_gate()
        runs[0].signal(signal.SIGTERM)
        for run in runs:
            run.go()
        texts = [run.end(75) for run in runs]
    assert f"Resuming at step {first} of {LAST}" in texts[0]
    then = steps(tmp_path / "run")[-1]
    assert f"Resuming at step {then} of {LAST}" in complete(home, tmp_path / "run")
    assert steps(tmp_path / "run") == list(range(LAST + 1)), "one row a step, none twice"
    here, there = losses(tmp_path / "run"), losses(home / "undisturbed")
    np.testing.assert_array_equal(here[:first], there[:first])
    np.testing.assert_allclose(here[first : first + 5], there[first : first + 5], rtol=1e-5)
    np.testing.assert_allclose(here, there, rtol=1e-3)
    assert (here[first:] != there[first:]).any(), "it was another sum"
