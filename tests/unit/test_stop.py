"""What a signal does while steps are made, and before and after."""

import signal
import subprocess
import sys
import threading

import pytest

from moco_jax.cluster import stop
from moco_jax.cluster.stop import Stop, stop_requested

BLOCKED = """
import ctypes, os, signal, time
from moco_jax.cluster.stop import ends_at_once, stop_requested
def end(name):
    print(name, flush=True)
    os._exit(75)
with ends_at_once(end):
    with stop_requested() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print(stop(1), flush=True)
    print("outside", flush=True)
    # Waits in C, as in a compilation, where no handler of Python runs.
    ctypes.CDLL(None).pause() and [ctypes.CDLL(None).sleep(60) for _ in range(2)]
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_of_steps_it_ends_at_once_although_the_main_thread_waits(number):
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "True\n"
        assert program.stdout.readline() == "outside\n"
        program.send_signal(number)
        assert program.stdout.readline() == f"{number.name}\n"
        assert program.wait(10) == 75


def test_a_second_ctrl_c_stops_at_once():
    with stop_requested() as asked:
        assert not asked(1)
        signal.raise_signal(signal.SIGINT)
        assert asked(1)
        assert asked.gives_up(), "a process of its own saves what it has"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requested():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_is_caught_in_another_thread():
    seen = []

    def ask():
        with stop_requested() as asked:
            seen.append(asked(1))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [False]


class LineThatHolds:
    def __init__(self, seconds):
        self.seconds = seconds

    def held(self):
        return self.seconds


@pytest.mark.parametrize(("held", "expected"), [(0.0, False), (stop._GRACE + 1, True)])
def test_of_several_a_batch_is_waited_for_a_while(held, expected):
    assert Stop(LineThatHolds(held)).gives_up() is expected
