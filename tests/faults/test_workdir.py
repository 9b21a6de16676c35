"""One run a workdir, and names of workdirs."""

import json
import os
import signal

import pytest

from moco_jax.cluster import lock
from tests.faults.runs import LAST, STEP, Run, complete, saved, steps

pytestmark = pytest.mark.faults
BUILD = "moco_jax.training.experiment:build#1"


def test_a_second_run_is_refused_and_the_first_goes_on(home, undisturbed, tmp_path):
    with Run(home, tmp_path, gate=f"{STEP}#4") as first:
        first.at_gate()
        with Run(home, tmp_path) as second:
            text = second.end(2)
        assert (
            f"is in use: another run, process {first.process.pid} on {os.uname().nodename}" in text
        )
        first.go().end(0)
    assert saved(tmp_path) == undisturbed
    assert steps(tmp_path) == list(range(LAST + 1))
    assert not (tmp_path / lock.FILE).exists()


def test_a_killed_run_does_not_block(home, undisturbed, tmp_path):
    with Run(home, tmp_path, gate=f"{STEP}#4") as run:
        run.at_gate().signal(signal.SIGKILL)
        run.process.wait()
    assert (tmp_path / lock.FILE).exists()
    assert "is gone" in complete(home, tmp_path)
    assert saved(tmp_path) == undisturbed


@pytest.mark.parametrize("content", [b"", b"\xff not JSON", None])
def test_a_run_of_a_lost_host_does_not_block(content, home, tmp_path):
    owner = {"host": "far", "pid": 7, "machine": "another", "token": "1", "started": "9"}
    (tmp_path / lock.FILE).write_bytes(json.dumps(owner).encode() if content is None else content)
    short = json.dumps({"moco_jax.cluster.lock:LOST": 1.0})
    with Run(home, tmp_path, set=short, gate=BUILD) as run:
        text = run.at_gate().signal(signal.SIGTERM).end(75)
    assert "waiting up to 1 s for a sign of life" in text
    assert "is gone" in text


def test_home_and_nothing(home, tmp_path):
    with Run(home, "") as run:
        assert "workdir='': expected a directory" in run.end(2)
    with Run(home, "~/x", limit=f"export HOME={tmp_path}", gate=BUILD) as run:
        run.at_gate()
        assert (tmp_path / "x" / lock.FILE).exists()
        run.signal(signal.SIGTERM).end(75)
    assert not (tmp_path / "x" / lock.FILE).exists(), "given back, although it ended at once"
