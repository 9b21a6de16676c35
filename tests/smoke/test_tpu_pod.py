"""launch/tpu_pod.sh and tpu_worker.sh, whole, with a stand-in for gcloud and its machines."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from moco_jax import metrics
from tests.conftest import CACHE
from tests.tiny import write_config_file

ROOT = pathlib.Path(__file__).parents[2]
TPU = ("--name=pod", "--zone=z", "--type=v4-16")
# Plays Python: a run of worker 0 and 1, which knows how often it was started.
PROGRAM = """
import os, pathlib, signal, sys, time
index = int(os.environ["JAX_PROCESS_ID"])
here = pathlib.Path(os.environ["STAND_IN"])
runs = here / f"runs-{index}"
run = int(runs.read_text()) if runs.exists() else 0
runs.write_text(str(run + 1))
(here / f"arguments-{index}").write_text("\\n".join(sys.argv[1:]))
def say(text): print(f"worker {index} run {run}: {text}", flush=True)
"""


def listen():
    """Ctrl-C counts, also where the tests run in the background, whose shell ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Pod:
    """The launcher and what it works on."""

    def __init__(self, folder, body=None):
        self.folder = folder
        if body is not None:
            (folder / "program.py").write_text(PROGRAM + body)
        gcloud = folder / "bin/gcloud"
        gcloud.parent.mkdir()
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/gcloud.py "$@"\n')
        gcloud.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{gcloud.parent}:{os.environ['PATH']}",
            "STAND_IN": str(folder),
            "PAUSE": "0.2",
        }
        self.launcher = None

    def start(self, *flags, options=()):
        with open(self.folder / "output", "ab") as out:
            self.launcher = subprocess.Popen(
                ["launch/tpu_pod.sh", *TPU, *options, "--", *flags], cwd=ROOT, stdout=out,
                stderr=out, env=self.environment, start_new_session=True,
                preexec_fn=listen,
            )  # fmt: skip
        return self

    def end(self, seconds=120):
        return self.launcher.wait(seconds)

    def text(self):
        return (self.folder / "output").read_text()

    def until(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            assert self.launcher.poll() is None, self.text()
            time.sleep(0.05)

    def until_said(self, text, times=1):
        self.until(lambda: self.text().count(text) >= times)

    def calls(self, name=""):
        """The queued-resources commands so far, as lists."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        every = [json.loads(line)[3:] for line in lines]
        return [call for call in every if call[0] == name] if name else every

    def take_away(self):
        """A preemption, as Cloud does it to the machines."""
        command = "from tests import gcloud; gcloud.take_away()"
        subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=self.environment, check=True)

    def close(self):
        if self.launcher and self.launcher.poll() is None:
            os.killpg(self.launcher.pid, signal.SIGKILL)
        self.take_away()


@pytest.fixture
def pod(tmp_path):
    made = []

    def make(body=None):
        made.append(Pod(tmp_path, body))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_whole_path_of_two_slices(pod):
    options = ("--slices=2", "--spot", "--setup=touch ready")
    p = pod('say("trains")').start("--workdir=/mnt/a b", "--config=c.py", options=options)
    assert p.end() == 0, p.text()
    names = [call[0] for call in p.calls() if call[0] != "describe"]
    assert names == ["create", "scp", *["ssh"] * 6, "delete"]
    (create,) = p.calls("create")
    assert {"--spot", "--node-count=2", "--accelerator-type=v4-16", "--zone=z"} <= set(create)
    assert all(call[1] == "pod" or call[0] == "scp" for call in p.calls())
    for index in range(4):
        arguments = (p.folder / f"arguments-{index}").read_text().split("\n")
        assert arguments == [
            "-m", "moco_jax.main", "--workdir=/mnt/a b", "--config=c.py", "--config.backend=tpu",
        ]  # fmt: skip
    assert p.text().count("worker 0 run 0: trains") == 1
    assert not (p.folder / "state").exists(), "deleted"


def test_dry_run_prints_every_command_and_runs_none(pod):
    p = pod("").start("--workdir=w", options=("--dry-run", "--setup=mount x"))
    assert p.end() == 0
    assert p.calls() == []
    parts = ("create pod", "scp ", "install", "mount", "start\\ --workdir=w", "follow", "delete")
    for part in parts:
        assert part in p.text()


@pytest.mark.parametrize("options", [("--nam=x",), ("--name=",)])
def test_wrong_options(options, pod):
    p = pod("").start("--workdir=w", options=options)
    assert p.end() == 2
    assert p.calls() == []


@pytest.mark.processes
@pytest.mark.parametrize("state", ["", "SUSPENDED"])
def test_what_is_preempted_is_created_again(state, pod):
    p = pod('say("on")\nif run == 0: time.sleep(100)').start("--workdir=w")
    p.until_said("worker 0 run 0: on")
    (p.folder / "state").write_text("SUSPENDING")
    p.take_away()
    if state:
        (p.folder / "state").write_text(state)
    else:
        (p.folder / "state").unlink()
    assert p.end() == 0, p.text()
    assert len(p.calls("create")) == 2
    assert "worker 0 run 1: on" in p.text()


@pytest.mark.processes
def test_a_connection_that_drops_leaves_the_run_alone(pod):
    body = "for i in range(8):\n    say(f'step {i}.')\n    time.sleep(0.7)"
    p = pod(body)
    (p.folder / "drop").touch()
    assert p.start("--workdir=w").end() == 0, p.text()
    assert "connecting again" in p.text()
    said = [line for line in p.text().splitlines() if line.startswith("worker 0")]
    assert said == [f"worker 0 run 0: step {i}." for i in range(8)]


@pytest.mark.processes
@pytest.mark.parametrize(("code", "starts", "end"), [(2, 1, 2), (3, 1, 3), (75, 2, 0), (137, 2, 0)])
def test_codes(code, starts, end, pod):
    p = pod(f"if run == 0: sys.exit({code})").start("--workdir=w")
    assert p.end() == end, p.text()
    assert (p.folder / "runs-1").read_text() == str(starts)
    assert len(p.calls("create")) == len(p.calls("delete")) == 1


@pytest.mark.processes
def test_gives_up_after_five_and_deletes(pod):
    p = pod("sys.exit(1)").start("--workdir=w")
    assert p.end() == 1
    assert (p.folder / "runs-0").read_text() == "6"
    assert "given up after 6 starts" in p.text()
    assert not (p.folder / "state").exists()


@pytest.mark.processes
def test_what_holds_the_chips_is_killed_before_the_next_start(pod):
    """Worker 1 hangs, deaf to SIGTERM, while worker 0 has ended."""
    body = """
if run == 0 and index == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "deaf").write_text(str(os.getpid()))
    time.sleep(100)
if run == 0:
    while not (here / "deaf").exists(): time.sleep(0.1)
    sys.exit(75)
"""
    p = pod(body).start("--workdir=w")
    assert p.end() == 0, p.text()
    stat = pathlib.Path(f"/proc/{(p.folder / 'deaf').read_text()}/stat")
    assert not stat.exists() or " Z " in stat.read_text()


@pytest.mark.processes
def test_ctrl_c_leaves_the_run_and_the_same_command_follows_it(pod):
    p = pod('say("on")\ntime.sleep(6)\nsay("done")').start("--workdir=w")
    p.until_said("worker 0 run 0: on")
    os.killpg(p.launcher.pid, signal.SIGINT)
    assert p.end() == 130
    assert "queued-resources delete pod" in p.text()
    assert p.start("--workdir=w").end() == 0, p.text()
    assert len(p.calls("create")) == len(p.calls("scp")) == 1
    assert p.text().count("worker 0 run 0: done") == 1


@pytest.mark.processes
def test_a_training_whose_tpu_is_taken_away_goes_on_with_a_new_one(pod, tmp_path):
    from launch.local import free_port

    write_config_file(tmp_path)
    p, workdir = pod(), tmp_path / "run"
    p.environment |= {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
        "STAND_IN_PORT": str(free_port()), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    p.start(f"--config={tmp_path}/config.py:v1", f"--workdir={workdir}", "--config.epochs=40",
            "--config.backend=cpu", "--config.knn.every_epochs=0.0")  # fmt: skip
    p.until(lambda: any(d.name.isdigit() for d in workdir.glob("checkpoints/*")), 300)
    p.take_away()
    (p.folder / "state").unlink()
    assert p.end(400) == 0, p.text()
    assert p.text().count("All are here: 0 on ") == 2
    assert "Resuming at step" in p.text()
    assert [row["step"] for row in metrics.read(workdir)] == list(range(201))
    assert shutil.which("gcloud", path=p.environment["PATH"]) == str(p.folder / "bin/gcloud")
