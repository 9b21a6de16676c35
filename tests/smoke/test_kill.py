"""Runs as users start them, killed and started again."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from moco_jax import metrics
from moco_jax.checkpoint import Checkpoints
from moco_jax.errors import EXIT_RESTART
from moco_jax.training import experiment
from tests.conftest import CACHE
from tests.tiny import tiny_config, write_config_file

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    return write_config_file(tmp_path)


def start(tmp_path, method, workdir, *flags):
    """Starts the program on two simulated devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "moco_jax.main", f"--config={tmp_path}/config.py:{method}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_step(process, workdir, step, saved=False):
    """Blocks until the run has logged `step`, and committed a checkpoint where `saved`."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        rows = metrics.read(workdir) if (workdir / "metrics.jsonl").exists() else []
        # Saving is asynchronous: the checkpoint of a step appears some steps later.
        committed = not saved or any(p.name.isdigit() for p in workdir.glob("checkpoints/*"))
        if rows and rows[-1]["step"] >= step and committed:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} not reached: {process.communicate()[1]}")


def final_state(source, method, workdir):
    x = experiment.build(tiny_config(method, source))
    store = Checkpoints(workdir, x.config.checkpoint)
    state = store.restore(experiment.abstract_state(x))
    assert int(state.position) == x.steps
    return jax.tree.map(np.asarray, state)


@pytest.mark.processes
@pytest.mark.parametrize("method", ["v1", "v3"])
def test_killed_at_a_random_step_and_resumed_is_bitwise_the_same(method, source, tmp_path):
    whole = start(tmp_path, method, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.communicate()[1]
    broken = start(tmp_path, method, tmp_path / "broken")
    wait_for_step(broken, tmp_path / "broken", random.SystemRandom().randint(4, 15), saved=True)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    again = start(tmp_path, method, tmp_path / "broken")
    errors = again.communicate(timeout=300)[1]
    assert again.returncode == 0, errors
    assert "Resuming at step" in errors
    a, b = (final_state(source, method, tmp_path / name) for name in ("whole", "broken"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    steps = [row["step"] for row in metrics.read(tmp_path / "broken")]
    assert steps == list(range(21)), "one row a step, none twice"


@pytest.mark.processes
def test_sigterm_saves_and_exits_with_its_own_code(source, tmp_path):
    run = start(tmp_path, "v3", tmp_path / "run", "--config.checkpoint.every_steps=0")
    wait_for_step(run, tmp_path / "run", 4)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=120)[1]
    assert run.returncode == EXIT_RESTART, errors
    (saved,) = (p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert int(saved.name) == metrics.read(tmp_path / "run")[-1]["step"] >= 4
    assert "stopped" in (tmp_path / "run" / "report.html").read_text()


def test_an_unknown_option_names_the_nearest(source, tmp_path):
    run = start(tmp_path, "v3", tmp_path / "run", "--config.data.batchsize=16")
    errors = run.communicate(timeout=60)[1]
    assert run.returncode not in (0, EXIT_RESTART)
    assert "batch_size" in errors
    assert not (tmp_path / "run").exists()


def test_wrong_input_is_one_line_and_code_2(source, tmp_path):
    run = start(tmp_path, "v3", tmp_path / "run", "--config.data.source=npz:/missing.npz")
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == 2
    assert "Traceback" not in errors
    assert "missing.npz" in errors
