"""The prefetcher: order, errors, ends, and which waiting counts."""

import subprocess
import sys
import threading
import time

import pytest

from moco_jax.data.prefetch import Prefetcher


def numbers(count, log=None, delay=0.0, error=None):
    try:
        for i in range(count):
            time.sleep(delay)
            yield {"i": i}
        if error:
            raise error
    finally:
        if log is not None:
            log.append("closed")


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_all_batches_come_in_order_and_the_end_stays_the_end():
    with Prefetcher(numbers(5), 2) as batches:
        assert [batch["i"] for batch in batches] == list(range(5))
        assert list(batches) == []


def test_at_most_depth_batches_are_made_ahead():
    made = []

    def put(batch):
        made.append(batch["i"])
        return batch

    with Prefetcher(numbers(100), 3, put) as batches:
        wait_until(lambda: len(made) == 3)
        time.sleep(0.05)
        assert len(made) == 3
        next(batches)
        wait_until(lambda: len(made) == 4)


def test_an_error_is_raised_before_the_batches_that_are_ready():
    log = []
    with Prefetcher(numbers(2, log, error=OSError("disk")), 5) as batches:
        wait_until(lambda: log == ["closed"])
        for _ in range(2):
            with pytest.raises(OSError, match="disk"):
                next(batches)


def test_an_error_wakes_a_waiting_consumer():
    def failing():
        time.sleep(0.05)
        raise OSError("disk")
        yield

    with Prefetcher(failing(), 1) as batches, pytest.raises(OSError, match="disk"):
        next(batches)


def test_an_error_of_the_transfer_is_raised_too():
    def put(batch):
        raise MemoryError("device")

    with Prefetcher(numbers(3), 1, put) as batches, pytest.raises(MemoryError, match="device"):
        next(batches)


def test_close_ends_the_thread_and_the_generator():
    log = []
    batches = Prefetcher(numbers(1000, log), 2)
    next(batches)
    batches.close()
    batches.close()
    assert log == ["closed"]
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match=r"data\.prefetch=0: expected at least 1"):
        Prefetcher(numbers(1), 0)


def test_no_wait_is_counted_where_batches_are_ready():
    log = []
    with Prefetcher(numbers(3, log), 4) as batches:
        wait_until(lambda: log)
        assert len(list(batches)) == 3
        assert batches.wait_seconds == 0


def test_waiting_counts_where_the_device_is_idle():
    with Prefetcher(numbers(2, delay=0.1), 1) as batches:
        start = time.perf_counter()
        next(batches)
        next(batches)
        assert 0.15 < batches.wait_seconds <= time.perf_counter() - start


def test_waiting_does_not_count_while_the_device_is_busy():
    with Prefetcher(numbers(1, delay=0.1), 1) as batches:
        batches.get(busy=lambda: True)
        assert batches.wait_seconds == 0


def test_waiting_counts_from_the_moment_the_device_is_idle():
    with Prefetcher(numbers(1, delay=0.3), 1) as batches:
        start = time.perf_counter()
        batches.get(busy=lambda: time.perf_counter() - start < 0.2)
        total = time.perf_counter() - start
        assert batches.wait_seconds == pytest.approx(total - 0.2, abs=0.05)


def test_the_end_of_the_program_ends_the_thread():
    """Otherwise the thread may be inside XLA when Python goes, which aborts the process."""
    script = """
from moco_jax.data.prefetch import Prefetcher
def batches():
    try:
        while True:
            yield {}
    finally:
        print("closed")
next(Prefetcher(batches(), 2))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")
