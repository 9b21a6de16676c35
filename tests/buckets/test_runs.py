"""Runs whose workdir is in a bucket: as in a file system, whatever happens to the server."""

import json
import signal
import time

import pytest

from moco_jax import checkpoint, metrics
from moco_jax.bucket import fetched
from moco_jax.checkpoint.bucketed import steps
from tests.faults.runs import LAST, STEP, Run, saved, two

pytestmark = pytest.mark.buckets
BOARD = "--config.log.tensorboard=True"
# The second checkpoint has been sent, and does not count yet.
SENT = "moco_jax.checkpoint.bucketed:_complete#2"
PATIENT = json.dumps({"moco_jax.files:BUCKET_SECONDS": 120.0})


def start(home, workdir, bucket, *flags, **disturbance):
    return Run(home, workdir, BOARD, *flags, variables=bucket.variables, **disturbance)


def assert_equal(workdir, undisturbed):
    """The last state to the bit, and the numbers of all steps."""
    with fetched(workdir / "checkpoints" / str(LAST)) as step:
        assert checkpoint.read(step)[1]["checksums"] == saved(undisturbed)
    ours, theirs = ([(r["step"], r.get("loss")) for r in metrics.read(w)]
                    for w in (workdir, undisturbed))  # fmt: skip
    assert ours == theirs
    names = {name.split("/")[0] for name in workdir.walk()}
    assert {"report.html", "config.json", "tensorboard"} <= names
    assert "running.json" not in names


def test_killed_while_it_saves_and_resumed(home, bucket, undisturbed):
    workdir = bucket.path("killed")
    with start(home, workdir, bucket, gate=SENT) as run:
        run.at_gate().signal(signal.SIGKILL)
    there = steps(workdir / "checkpoints")
    assert (workdir / "checkpoints/6/unfinished").exists()
    with start(home, workdir, bucket) as run:
        text = run.end(0)
    assert there == [3]
    assert f"Resuming at step 3 of {LAST}" in text
    assert len(steps(workdir / "checkpoints")) == 3
    assert_equal(workdir, undisturbed)


@pytest.mark.parametrize("state", ["gone", "failing", "slow"])
def test_twenty_seconds_without_the_server_are_survived(home, s3, undisturbed, state):
    workdir = s3.path(state)
    with start(home, workdir, s3, gate=f"{STEP}#8", set=PATIENT) as run:
        run.at_gate()
        s3.way.state = state
        run.go()
        time.sleep(20)
        s3.way.state = "open"
        text = run.end(0)
    assert state == "slow" or "again in" in text
    assert_equal(workdir, undisturbed)


def test_a_server_that_stays_away_ends_the_run_with_75_and_nothing_is_lost(home, s3, undisturbed):
    workdir = s3.path("left")
    with start(home, workdir, s3, gate=f"{STEP}#8") as run:
        run.at_gate()
        s3.way.state = "gone"
        text = run.go().end(75)
    s3.way.state = "open"
    assert "ERROR: Writing s3://bucket/left/" in text or "ERROR: Reading s3://bucket/left/" in text
    assert "Could not connect to the endpoint URL" in text
    there = steps(workdir / "checkpoints")
    assert there
    with start(home, workdir, s3) as run:
        assert f"Resuming at step {there[-1]} of {LAST}" in run.end(0)
    assert_equal(workdir, undisturbed)


def test_two_processes_share_it(home, s3, undisturbed):
    """With arrays that lie on both; the first one is killed while it saves.

    That all is read as it was written, its checksums say, which both processes make together.
    """
    workdir, flags = s3.path("pair"), ("--config.mesh.fsdp=2", BOARD)
    both = {"variables": s3.variables}
    with two(home, workdir, *flags, **both, first={"gate": SENT}) as (zero, one, _):
        zero.at_gate().signal(signal.SIGKILL)
        one.end(75)
    with two(home, workdir, *flags, **both) as (zero, one, _):
        text = zero.end(0)
        one.end(0)
    assert f"Resuming at step 3 of {LAST}" in text
    ours, theirs = (metrics.read(w) for w in (workdir, undisturbed))
    assert [row["step"] for row in ours] == list(range(LAST + 1))
    for a, b in zip(ours[1:], theirs[1:]):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.01)
