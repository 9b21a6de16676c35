"""Worker processes: the same batches, clear ends, nobody left behind."""

import itertools
import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import pipeline, workers
from moco_jax.data.source import EncodedSource, open_source
from moco_jax.errors import BadImage, WorkerError
from tests import readers

ROOT = pathlib.Path(__file__).parents[2]
COUNT = 40


def options(**overrides):
    data = config.default().data
    data.update({"batch_size": 12, "eval_batch_size": 16, "image_size": 16, "max_bad_share": 0.2})
    data.update({"threads": 3, "processes": 2} | overrides)
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), np.uint8)).save(root / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def source(root, tmp_path_factory):
    return open_source(f"folder:{root}", str(tmp_path_factory.mktemp("cache"))).train


def take(batches, count=None):
    with batches:
        return list(itertools.islice(batches, count))


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_give_the_batches_of_threads_and_leave_none_behind(source):
    bad = EncodedSource("bad", COUNT, readers.Broken(source, {3, 17}, "bad"), readers.name)
    for make in (lambda d: pipeline.train_batches(bad, d, 2, 1), lambda d: eval_of(bad, d)):
        alone = take(make(options(processes=1)), 8)
        shared = take(make(options()), 8)
        assert len(alone) == len(shared) > 2
        for a, b in zip(alone, shared):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key], key)
    assert multiprocessing.active_children() == []


def eval_of(source, data):
    return pipeline.eval_batches(source, data)


@pytest.mark.parametrize("module", ["jax", "tensorflow_datasets"])
def test_workers_load_no_more_than_they_need(source, module):
    labelled = EncodedSource("modules", COUNT, readers.Modules(source, module), readers.name, True)
    (batch,) = take(pipeline.train_batches(labelled, options(), 0), 1)
    assert batch["label"].tolist() == [0] * 12


def test_a_killed_worker_ends_the_stream_at_once_with_its_name(source):
    slow = EncodedSource("slow", COUNT, readers.Broken(source, {7}, "slow"), readers.name)
    with pipeline.train_batches(slow, options(), 0) as batches:
        wait_until(lambda: len(multiprocessing.active_children()) == 2)
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(WorkerError, match=r"data worker \d \(pid \d+\) was killed by SIGKILL"):
            take(batches)
        assert time.monotonic() - begin < 5, "others are not waited for"
    assert multiprocessing.active_children() == []


def test_a_stop_signal_to_the_group_leaves_the_workers_at_work(source):
    with pipeline.train_batches(source, options(), 0) as batches:
        next(batches)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        assert len(list(itertools.islice(batches, 20))) == 20


PROGRAM = """
import multiprocessing, sys, time
from moco_jax import config
from moco_jax.data import pipeline
from moco_jax.data.source import open_source

if __name__ == "__main__":
    data = config.default().data
    data.update({"batch_size": 12, "image_size": 16, "threads": 2, "processes": 2})
    batches = pipeline.train_batches(open_source(sys.argv[1], sys.argv[2]).train, data, 0)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if sys.argv[3] == "wait":
        time.sleep(60)
"""


def alive(pid):
    try:
        return (
            "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        )
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("end", ["killed", "without closing"])
def test_workers_end_with_their_parent(root, tmp_path, end):
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = [f"folder:{root}", str(tmp_path), "wait" if end == "killed" else "leave"]
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = list(map(int, parent.stdout.readline().split()))
    assert len(pids) == 2
    if end == "killed":
        assert all(map(alive, pids))
        parent.kill()
    parent.wait(20)
    wait_until(lambda: not any(map(alive, pids)))
    parent.stdout.close()


def test_errors_come_back_as_they_are(source, caplog):
    bug = EncodedSource("bug", COUNT, readers.Broken(source, {3}, "bug"), readers.name)
    with pytest.raises(TypeError, match="a bug") as info:
        take(pipeline.train_batches(bug, options(), 0), 4)
    assert "tests/readers.py" in info.value.__notes__[0], "the worker's traceback"
    everything = readers.Broken(source, set(range(COUNT)), "bad")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(BadImage, match="64 images in a row"),
    ):
        take(
            pipeline.train_batches(
                EncodedSource("b", COUNT, everything, readers.name), options(), 0
            )
        )


def test_a_source_that_cannot_be_sent_names_the_way_out(source):
    local = EncodedSource("local", COUNT, lambda i: source.read(i), readers.name)
    with pytest.raises(ValueError, match=r"cannot be sent to worker.*data\.processes=1"):
        take(pipeline.train_batches(local, options(), 0), 1)


@pytest.mark.parametrize(
    ("threads", "processes", "expected"),
    [(1, 0, (1, 1)), (8, 0, (8, 1)), (9, 0, (9, 2)), (112, 0, (112, 14)), (8, 1, (8, 1)),
     (2, 7, (2, 2)), (0, 0, (16, 2)), (0, 1, (16, 1))],
)  # fmt: skip
def test_the_machine_decides_what_the_user_does_not(threads, processes, expected, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 16)
    assert workers.layout(threads, processes) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("200000 100000", 2), ("max 100000", 4), (None, 4)]
)
def test_cores_are_those_of_the_container(limit, expected, monkeypatch):
    def read(path):
        if limit is None:
            raise FileNotFoundError
        return limit

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
    monkeypatch.setattr(pathlib.Path, "read_text", read)
    assert workers.cores() == expected
