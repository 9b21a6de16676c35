"""Faults of one process of two: strangers at its ports, a stop, damage that only it sees."""

import contextlib
import json
import random
import shutil
import signal
import socket
import time

import pytest

from tests.faults.runs import LAST, STEP, saved, steps, two

pytestmark = pytest.mark.faults


def strangers(port):
    """Garbage, silence and a crowd."""
    rng = random.Random(0)
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(
                rng.choice(
                    [
                        b"",
                        b"GET / HTTP/1.1\r\n\r\n",
                        rng.randbytes(5000),
                        bytes(500),
                        json.dumps({"failed": 0, "process": 1}).encode() + b"\n",
                    ]
                )
            )


def test_strangers_at_both_ports_change_nothing(home, pair, tmp_path):
    with two(home, tmp_path, gate=f"{STEP}#4") as (zero, one, port):
        zero.at_gate(), one.at_gate()
        strangers(port), strangers(port + 1)
        crowd = [socket.create_connection(("127.0.0.1", port + 1)) for _ in range(150)]
        zero.go(), one.go()
        zero.end(0), one.end(0)
        for stranger in crowd:
            stranger.close()
    assert saved(tmp_path) == saved(pair)
    assert steps(tmp_path) == list(range(LAST + 1))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_named_and_ends_all(victim, home, pair, tmp_path):
    soon = {f"moco_jax.cluster.{room}:{name}": value for room in ("switchboard", "lifeline")
            for name, value in (("TICK", 0.5), ("QUIET", 1.5), ("GONE", 5.0))}  # fmt: skip
    with two(home, tmp_path, gate=f"{STEP}#8", set=json.dumps(soon)) as runs:
        for run in runs[:2]:
            run.at_gate()
        runs[victim].signal(signal.SIGSTOP)
        text = runs[1 - victim].go().end(75)
        assert f"Process {victim} " in text
        assert "has given no sign of life" in text
        runs[victim].go().signal(signal.SIGCONT)
        time.sleep(0.1)
        assert runs[victim].process.wait(60) != 0
    with two(home, tmp_path) as (zero, one, _):
        zero.end(0), one.end(0)
    assert saved(tmp_path) == saved(pair)


@pytest.mark.parametrize("kind", ["damage", "break"])
def test_a_checkpoint_that_one_process_cannot_read(kind, home, pair, tmp_path):
    """Damage is passed over by both; a disk that fails ends both, to be started again."""
    shutil.copytree(pair / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(pair / "metrics.jsonl", tmp_path)
    place = "moco_jax.checkpoint:read_meta" + ("" if kind == "break" else "#2")
    soon = json.dumps({"moco_jax.checkpoint:_LATER": []})
    with two(home, tmp_path, set=soon, second={kind: place}) as (zero, one, _):
        if kind == "damage":
            texts = zero.end(0), one.end(0)
            assert f"CHECKPOINT {LAST} IS DAMAGED (for process 1: " in texts[0]
            assert "Resuming at step 18" in texts[0]
            assert saved(tmp_path) == saved(pair)
        else:
            texts = zero.end(75), one.end(75)
            assert "Input/output error" in texts[1]
            assert "Process 1 on" in texts[0]


def test_a_save_that_fails_in_one_process_ends_both(home, pair, tmp_path):
    place = "orbax.checkpoint:StandardCheckpointHandler.async_save#2"
    with two(home, tmp_path, second={"break": place}) as (zero, one, _):
        texts = zero.end(75), one.end(75)
    assert "Saving a checkpoint" in texts[1]
    assert "Process 1 on" in texts[0]
    with two(home, tmp_path) as (zero, one, _):
        zero.end(0), one.end(0)
    assert saved(tmp_path) == saved(pair)
