"""Reads and listings that hang, disks that fail in reading: said, with what is waited for."""

import json
import os
import pathlib
import signal
import subprocess

import cv2
import numpy as np
import pytest

from tests.faults.runs import LAST, STEP, Run, steps

pytestmark = pytest.mark.faults
FLAGS = ("--config.data.source=folder:{}", "--config.data.mean=(0.5,0.5,0.5)",
         "--config.data.std=(0.2,0.2,0.2)", "--config.data.threads=2",
         "--config.data.array_gb=0")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(80):
        (path / f"{i % 3}").mkdir(exist_ok=True)
        cv2.imwrite(f"{path}/{i % 3}/{i}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
    return [flag.format(path) for flag in FLAGS]


def workers(run):
    pids = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(run.process.pid)], text=True)
    return [
        int(pid) for pid in pids.split()
        if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip


def test_a_stopped_worker_is_named_and_a_stop_saves_without_it(home, folder, tmp_path):
    soon = json.dumps({
        "moco_jax.data.workers:LONG": 0.5, "moco_jax.data.workers:_PATIENCE": 1.0,
        "moco_jax.data.prefetch:_PATIENCE": 2.0,
    })  # fmt: skip
    with Run(home, tmp_path, *folder, "--config.data.processes=2", gate=f"{STEP}#4",
             set=soon) as run:  # fmt: skip
        run.at_gate()
        stopped = workers(run)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        named = [f"(pid {pid}) has not answered" for pid in stopped]
        run.go().wait_until(lambda: any(text in run.text() for text in named))
        run.signal(signal.SIGTERM).end(75)
    last = steps(tmp_path)[-1]
    assert (tmp_path / "checkpoints" / str(last)).is_dir()
    with Run(home, tmp_path, *folder) as run:
        assert f"Resuming at step {last} of {LAST}" in run.end(0)
    assert steps(tmp_path) == list(range(LAST + 1))


def test_a_folder_whose_listing_hangs_ends_the_run(home, folder, tmp_path):
    """And it does not hold the end up."""
    with Run(home, tmp_path, *folder, "--config.data.read_seconds=1",
             gate="moco_jax.data.listing:kind") as run:  # fmt: skip
        text = run.end(75)
    where = folder[0].partition("folder:")[2]
    assert f"no answer for data.read_seconds=1 from {where}: the disk or server is away" in text


def test_a_disk_that_fails_in_reading_is_named(home, folder, tmp_path):
    broken = {"break": "moco_jax.data.folder:_read"}
    with Run(home, tmp_path, *folder, "--config.knn.every_epochs=0", **broken) as run:
        text = run.end(75)
    assert "Reading " in text
    assert ".png" in text
    assert "Input/output error" in text
