"""The line between processes; here its ends are threads of one process."""

import socket
import threading
import time

import pytest

from moco_jax.cluster.lifeline import Line
from tests.lines import Ends, connect, exchange, free_address


@pytest.fixture
def address():
    return free_address()


def test_everyone_gets_everyones_value(address):
    lines = connect(address, 3, Ends())
    for values in (["a", {"b": 1}, None], [3, 2, 1]):
        assert exchange(lines, values) == dict.fromkeys(range(3), values)
    for line in lines:
        line.close()


def test_a_failure_ends_all_with_its_code_and_text(address):
    ends = Ends()
    lines = connect(address, 3, ends)
    exchange(lines, [0, 1, 2])
    lines[1].fail(2, "no images")
    ended = ends.take(2)
    assert ended.keys() == {0, 2}
    for code, text in ended.values():
        assert code == 2
        assert text == f"Process 1 on {socket.gethostname()} stopped: no images"


@pytest.mark.parametrize("dead", [0, 2])
def test_a_death_ends_the_others_to_be_restarted(address, dead):
    """Process 0 takes the hub with it, which a thread cannot: its end of the line is cut."""
    ends = Ends()
    lines = connect(address, 3, ends)
    exchange(lines, [0, 1, 2])
    lines[dead]._socket.shutdown(socket.SHUT_RDWR)
    ended = ends.take(3)  # the dead one's thread included: here it lives on
    for index in {0, 1, 2} - {dead}:
        code, text = ended[index]
        assert code == 75
        assert text.startswith(f"Process {dead} on {socket.gethostname()} died")


def test_one_that_leaves_in_order_is_no_alarm(address):
    ends = Ends()
    lines = connect(address, 2, ends)
    exchange(lines, [0, 1])
    lines[1].close()
    lines[1]._socket.shutdown(socket.SHUT_RDWR)
    lines[0].fail(1, "later")  # a message that comes after whatever the close has caused
    assert ends.empty()


def test_process_0_may_leave_first(address):
    ends = Ends()
    lines = connect(address, 2, ends)
    exchange(lines, [0, 1])
    lines[0].close()
    lines[1]._socket.shutdown(socket.SHUT_RDWR)  # as if the hub had gone with its process
    time.sleep(0.2)
    assert ends.empty()


def test_one_that_has_left_holds_nobody_up(address):
    lines = connect(address, 2, Ends())
    exchange(lines, [0, 1])
    lines[1].stops(20, "")
    lines[1].close()
    lines[1]._socket.shutdown(socket.SHUT_RDWR)
    step = 20
    while not lines[0].stops(step, "SIGTERM"):
        step += 1


@pytest.mark.parametrize("wishes", [{1: 7}, {0: 3, 2: 9}])
def test_a_wish_to_stop_stops_all_after_one_step(address, wishes):
    """Steps like a device's: none completes before all have begun it, two may be ahead."""
    count, begun, last = 3, {}, {}
    lines = connect(address, count, Ends())

    def train(i):
        for step in range(1, 31):
            begun[i] = step
            time.sleep(0.001 * i)
            if lines[i].stops(step, "SIGTERM" if step >= wishes.get(i, 99) else ""):
                break
            while min(begun.get(j, 0) for j in range(count)) < step - 2:
                time.sleep(0.001)
        last[i] = step

    threads = [threading.Thread(target=train, args=[i]) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(last.values())) == 1
    assert min(wishes.values()) <= last[0] < 30


def test_the_missing_are_named(address):
    ends = Ends()
    for i in (0, 2):
        Line(address, 4, i, 0.5, ends.of(i))
    for code, text in ends.take(2).values():
        host = socket.gethostname()
        assert code == 75
        assert f"process 1, 3 of 4 (here: 0 on {host}, 2 on {host})" in text


def test_another_count_or_a_number_taken_is_refused_and_named_to_the_others(address):
    ends = Ends()
    Line(address, 3, 0, 1.0, ends.of(0))
    Line(address, 3, 1, 1.0, ends.of(1))
    Line(address, 2, 1, 1.0, ends.of("wrong count"))
    Line(address, 3, 1, 1.0, ends.of("twice"))
    ended = ends.take(4)
    assert ended["wrong count"][0] == ended["twice"][0] == 2
    assert "expects 2 processes, not 3" in ended["wrong count"][1]
    assert "process 1 came from" in ended["twice"][1]
    for index in (0, 1):
        assert ended[index][0] == 75
        assert "process 2 of 3" in ended[index][1]
        assert "expects 2 processes, not 3" in ended[index][1]


def test_process_0_that_never_comes_is_named(address):
    ends = Ends()
    with pytest.raises(OSError):
        Line(address, 2, 1, 0.3, ends.of(1))
    (code, text) = ends.take(1)[1]
    assert code == 75
    assert f"did not reach process 0 at 127.0.0.1:{address[1]}" in text


def test_a_taken_port_is_refused(address):
    Line(address, 1, 0, 5.0, Ends().of(0))
    with pytest.raises(ValueError, match=f"cannot listen on port {address[1]}"):
        Line(address, 1, 0, 5.0, Ends().of(0))
