"""Clocks that are set, and time zones: nothing that a run decides hangs on the time of the day."""

import json
import os
import signal
import time

import pytest

from moco_jax.cluster import lock
from moco_jax.errors import InputError
from tests.faults.runs import LAST, STEP, Run, saved, steps

pytestmark = pytest.mark.faults
DAY = 86400


class Clock:
    """The seconds by which it is wrong, in a file that is always whole."""

    def __init__(self, path):
        self.path = path

    def set(self, seconds):
        new = self.path.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.path)


def test_clocks_and_time_zones_that_jump(home, undisturbed, tmp_path):
    """By a day, to and fro, while it runs and between; another zone each time."""
    clock, workdir = Clock(tmp_path / "clock"), tmp_path / "run"

    def start(zone, wrong_by, gate=f"{STEP}#5"):
        clock.set(wrong_by)
        zone = f"export TZ={zone}"
        return Run(home, workdir, limit=zone, clock=str(clock.path), gate=gate)

    with start("Pacific/Kiritimati", 0) as run:
        run.at_gate()
        clock.set(-DAY)
        time.sleep(lock.BEAT + 1)  # it renews its lock at the wrong time
        with start("America/St_Johns", 2 * DAY, gate="") as second:
            said = second.end(2)
        run.go().signal(signal.SIGTERM).end(75)
    assert f"in use: another run, process {run.process.pid} on " in said, "no stale lock"
    with start("America/St_Johns", DAY) as run:
        run.at_gate()
        since = json.loads((workdir / lock.FILE).read_text())["since"]
        assert since > time.strftime("%Y-%m-%d %H", time.gmtime(time.time() + DAY - 3600))
        clock.set(-DAY)
        run.go().signal(signal.SIGKILL)
        run.process.wait()
    with start("Asia/Kathmandu", -2 * DAY, gate="") as run:
        text = run.end(0)
    assert "is gone" in text, "no living lock"
    assert "waiting up to" not in text
    assert saved(workdir) == undisturbed
    assert steps(workdir) == list(range(LAST + 1)), "in order, one row a step"


@pytest.mark.parametrize("seconds", [-DAY, DAY])
@pytest.mark.parametrize("alive", [True, False])
def test_times_of_a_lock_on_another_host_count_for_nothing(alive, seconds, tmp_path, monkeypatch):
    """A file server whose clock is wrong by a day; what counts is whether it is renewed."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "LOST", 1.0)
    owner = {"host": "far", "pid": 7, "machine": "another", "token": "1", "started": "9"}
    renewals = 0

    def sleep(_, sleep=time.sleep):
        nonlocal renewals
        sleep(0.05)
        renewals += alive
        write()

    def write():
        (tmp_path / lock.FILE).write_text(json.dumps(owner | {"beats": renewals}))
        os.utime(tmp_path / lock.FILE, times=(time.time() + seconds,) * 2)

    write()
    monkeypatch.setattr(lock.time, "sleep", sleep)
    monkeypatch.setattr(lock.time, "time", lambda: seconds)
    if alive:
        with pytest.raises(InputError, match="in use: another run, process 7 on far"):
            lock._Lock(tmp_path / lock.FILE, print).take()
    else:
        with lock.held(tmp_path, print):
            assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
