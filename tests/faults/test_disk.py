"""Disks that are full, read-only or away: survived, or told with exit code 75, nothing lost."""

import json
import re
import subprocess
import time

import pytest

from tests.faults.conftest import filled
from tests.faults.runs import LAST, SAVE, STEP, Run, complete, saved, steps

pytestmark = pytest.mark.faults
FULL, READ_ONLY = "No space left on device", "Read-only file system"
BOARD = "--config.log.tensorboard=True"


def assert_ends_well(home, workdir, undisturbed, *flags):
    complete(home, workdir, *flags)
    assert saved(workdir) == undisturbed
    assert steps(workdir) == list(range(LAST + 1)), "one row a step, none twice"


def test_a_full_disk_ends_with_75_and_the_same_command_goes_on(home, undisturbed, disk):
    workdir = disk / "run"
    with Run(home, workdir, BOARD, gate=f"{STEP}#4") as run:
        run.at_gate()
        with filled(disk):
            text = run.go().end(75)
    assert re.search(rf"failed 3 times in \d+ s, last with \[Errno 28\] {FULL}", text)
    assert str(workdir) in text
    assert_ends_well(home, workdir, undisturbed, BOARD)


def test_a_disk_that_is_full_for_a_while_is_survived(home, undisturbed, disk):
    workdir, patience = disk / "run", json.dumps({"moco_jax.files:DELAYS": [0.3] * 200})
    with Run(home, workdir, gate=f"{SAVE}#2", set=patience) as run:
        run.at_gate()
        with filled(disk):
            run.go().wait_until(lambda: "again in" in run.text())
        text = run.end(0)
    assert FULL in text
    assert saved(workdir) == undisturbed


def test_a_full_disk_for_tensorboard_alone_is_said_once(home, undisturbed, disk, tmp_path):
    """Rows and checkpoints are elsewhere."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "tensorboard").symlink_to(disk)
    with Run(home, workdir, BOARD, gate=f"{STEP}#4") as run:
        run.at_gate()
        with filled(disk):
            text = run.go().end(0)
    assert text.count("Nothing more for TensorBoard") == 1
    assert saved(workdir) == undisturbed
    assert steps(workdir) == list(range(LAST + 1))


def test_a_full_disk_during_the_report_is_a_warning(home, undisturbed, disk):
    workdir = disk / "run"
    with Run(home, workdir, gate="moco_jax.report:conclude#1") as run:
        run.at_gate()
        with filled(disk):
            text = run.go().end(0)
    assert f"No report.html: OSError: [Errno 28] {FULL}" in text
    before = (workdir / "report.html").read_text()
    assert '<span class="badge unfinished">' in before, "that of the last evaluation is left"
    assert_ends_well(home, workdir, undisturbed)
    assert '<span class="badge complete">' in (workdir / "report.html").read_text()


def test_files_that_may_not_grow_end_with_75(home, undisturbed, tmp_path):
    """As by a quota, for any user: RLIMIT_FSIZE."""
    workdir = tmp_path / "run"
    with Run(home, workdir, limit="ulimit -f 40") as run:
        text = run.end(75)
    assert "File too large" in text
    assert str(workdir / "checkpoints") in text
    assert_ends_well(home, workdir, undisturbed)


def remount(path, how):
    subprocess.run(["mount", "-o", f"remount,{how}", path], check=True)


def test_a_workdir_that_turns_read_only_and_back(home, undisturbed, disk):
    workdir = disk / "run"
    with Run(home, workdir, gate=f"{STEP}#8") as run:
        run.at_gate()
        remount(disk, "ro")
        text = run.go().end(75)
    assert READ_ONLY in text
    with Run(home, workdir) as run:
        assert READ_ONLY in run.end(75), "it may be writable again soon"
    remount(disk, "rw")
    assert_ends_well(home, workdir, undisturbed)


def test_checkpoints_that_turn_unwritable_end_at_once(home, undisturbed, disk, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "checkpoints").symlink_to(disk)
    with Run(home, workdir, gate=f"{SAVE}#2") as run:
        run.at_gate()
        remount(disk, "ro")
        begin = time.monotonic()
        text = run.go().end(75)
        assert time.monotonic() - begin < 120, "Orbax alone lingers for 5 minutes"
    assert f"Saving checkpoint 6 in {workdir}/checkpoints failed" in text
    assert READ_ONLY in text
    remount(disk, "rw")
    assert_ends_well(home, workdir, undisturbed)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("moco_jax.files:replace", "Writing {}/config.json failed"),
        ("moco_jax.results:add_each#1", "Input/output error"),  # before the first step
        ("moco_jax.results:add_each#3", "Input/output error"),  # after the last
    ],
)
def test_a_side_file_that_cannot_be_written(place, message, home, undisturbed, tmp_path):
    """What has been trained is saved first."""
    with Run(home, tmp_path, "--config.checkpoint.every_steps=0", **{"break": place}) as run:
        assert message.format(tmp_path) in run.end(75)
    complete(home, tmp_path)
    assert saved(tmp_path) == undisturbed
    assert (tmp_path / "results.json").exists()
    assert steps(tmp_path) == list(range(LAST + 1))
