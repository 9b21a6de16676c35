"""launch/local.py with a program in the place of training that only plays its part."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import local
from moco_jax.errors import EXIT_DIVERGED, EXIT_WRONG_INPUT

PROGRAM = """
import os, pathlib, signal, sys, time
index = int(os.environ["JAX_PROCESS_ID"])
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
runs = workdir / f"runs-{index}"
run = int(runs.read_text()) if runs.exists() else 0
runs.write_text(str(run + 1))
print("run", run, os.environ["JAX_NUM_PROCESSES"], os.environ["JAX_LOCAL_DEVICE_IDS"], flush=True)
def save(step):
    (workdir / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture
def launch(tmp_path):
    """body of the program -> (exit code, output) of the launcher."""
    started = []

    def start(body, *options, n=2):
        (tmp_path / "moco_jax").mkdir()
        (tmp_path / "moco_jax" / "main.py").write_text(PROGRAM + body)
        started.append(subprocess.Popen(
            [sys.executable, local.__file__, "-n", str(n), *options, "--", f"--workdir={tmp_path}"],
            cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
        return started[-1]

    yield start
    for launcher in started:
        for _ in range(2):
            launcher.terminate()
            time.sleep(0.1)
        launcher.wait(10)


def result(launcher):
    text = launcher.communicate(timeout=30)[1]
    return launcher.returncode, text


def test_all_end_well(launch):
    code, text = result(launch("", "--devices-per-process=2"))
    assert code == 0
    assert {"[0] run 0 2 0,1", "[1] run 0 2 2,3"} <= set(text.splitlines())


def test_one_that_fails_has_all_started_again(launch):
    body = "save(run + 1)\nif run < 2: sys.exit(75) if index else os.kill(os.getpid(), 9)"
    code, text = result(launch(body, "--restarts=0"))
    assert code == 0
    assert text.count("exit codes [-9, 75]") == 2
    assert "[1] run 2" in text


def test_gives_up_after_restarts_without_a_new_checkpoint(launch):
    code, text = result(launch("if run == 0: save(3)\nsys.exit(75)", "--restarts=2"))
    assert code == 1
    assert "given up: 3 times in a row without a new checkpoint" in text
    assert text.count("starting all again") == 3


@pytest.mark.parametrize("final", [2, 3])
def test_what_would_fail_again_is_not_tried_again(launch, final):
    code, text = result(launch(f"sys.exit({final})"))
    assert code == final
    assert "again" not in text


def test_what_does_not_end_in_time_is_killed_with_its_children(launch, tmp_path):
    body = """
if run == 0 and index == 0: sys.exit(75)
if run == 0:
    os.fork()
    time.sleep(60)
"""
    code, text = result(launch(body, "--grace=0.5"))
    assert code == 0
    assert "exit codes [75, -9]" in text
    assert subprocess.run(["pgrep", "-f", f"workdir={tmp_path}$"]).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_and_is_not_followed_by_a_restart(number, launch):
    body = f"""
signal.signal({int(number)}, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(30)
"""
    launcher = launch(body)
    seen = ""
    while seen.count("ready") < 2:
        line = launcher.stderr.readline()
        assert line, seen
        seen += line
    launcher.send_signal(number)
    code, text = result(launcher)
    assert code == 75
    assert "exit codes [75, 75]" in text
    assert "again" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["before", "among", "after"])
def test_a_signal_while_the_processes_are_started_reaches_them(
    when, number, tmp_path, monkeypatch, capsys
):
    """Before the first, between two, and after the last, when the launcher has yet to wait."""
    (tmp_path / "moco_jax").mkdir()
    (tmp_path / "moco_jax" / "main.py").write_text("import time; time.sleep(20)")
    monkeypatch.chdir(tmp_path)
    comes_at = {"before": 0, "among": 1, "after": 2}[when]
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    original, started = subprocess.Popen, []

    def popen(*args, **kwargs):
        if len(started) == comes_at:
            signal.raise_signal(number)
        started.append(original(*args, **kwargs))
        if len(started) == comes_at == 2:
            signal.raise_signal(number)
        return started[-1]

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    try:
        assert local.run(local.parse(["-n", "2", "--", f"--workdir={tmp_path}"])) == 75
    finally:
        for n, handler in kept.items():
            signal.signal(n, handler)
    assert [process.returncode for process in started].count(0) == 0
    assert "again" not in capsys.readouterr().err


def test_slurms_script_hands_out_a_token(tmp_path, monkeypatch):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$MOCO_JAX_RUN_TOKEN"\n')
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("MOCO_JAX_RUN_TOKEN", raising=False)

    def token():
        return subprocess.check_output(["bash", FOLDER / "slurm.sh"], text=True).strip()

    found = {token(), token()}
    assert len(found) == 2, "another one each time"
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
    monkeypatch.setenv("MOCO_JAX_RUN_TOKEN", "chosen")
    assert token() == "chosen"


def test_options_that_are_wrong(capsys):
    for arguments in (["-n", "0", "--", "--workdir=x"], ["-n", "2", "--", "--config=x"]):
        with pytest.raises(SystemExit):
            local.parse(arguments)
    assert "--workdir=DIR is missing after --" in capsys.readouterr().err
    assert local.parse(["-n", "2", "--", "--workdir", "x"]).workdir == "x"


FOLDER = pathlib.Path(local.__file__).parent


def shell_cases(text):
    """The exit codes that a script has in the first line of its `case`."""
    return {int(n) for n in re.search(r"^ +(\d[\d |]*)\)", text, re.MULTILINE)[1].split("|")}


def pod_rules(text):
    """The exit codes that fail a Job at once."""
    (found,) = re.findall(r"action: FailJob\n(?:.*\n){3} +values: \[(.*)\]", text)
    return {0, *map(int, found.split(","))}


@pytest.mark.parametrize(
    ("name", "codes_of"),
    [
        ("slurm.sh", shell_cases),
        ("tpu_pod.sh", shell_cases),
        ("kubernetes.yaml", pod_rules),
        ("kubernetes_tpu.yaml", pod_rules),
    ],
)
def test_all_agree_on_the_codes_that_are_not_tried_again(name, codes_of):
    assert codes_of((FOLDER / name).read_text()) == {0, EXIT_WRONG_INPUT, EXIT_DIVERGED}
