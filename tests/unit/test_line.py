"""The line between processes; here its ends are threads of one process."""

import contextlib
import json
import queue
import random
import socket
import threading
import time

import pytest

from moco_jax.cluster import door, lifeline, switchboard
from moco_jax.cluster.hello import Hello, admit, greet, token_of
from moco_jax.cluster.lifeline import Line


@pytest.fixture
def address():
    with socket.create_server(("", 0)) as server:
        return "127.0.0.1", server.getsockname()[1]


class Ends(queue.SimpleQueue):
    """What ended, and how: (process, code, text)."""

    def of(self, index):
        return lambda code, text: self.put((index, code, text))

    def take(self, count):
        return {
            index: (code, text)
            for index, code, text in (self.get(timeout=10) for _ in range(count))
        }


def connect(address, count, ends, timeout=20.0):
    return [Line(address, count, i, timeout, ends.of(i)) for i in range(count)]


def exchange(lines, values):
    out = {}
    threads = [
        threading.Thread(
            target=lambda i, line: out.setdefault(i, line.exchange(values[i])), args=pair
        )
        for pair in enumerate(lines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return out


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


STRANGERS = {
    "http": b"GET / HTTP/1.1\r\n\r\n" + b"x" * 200,
    "json": json.dumps({"process": 0, "of": 1, "host": "x"}).encode() + b"\n" * 200,
    "zeros": bytes(4096),
    "random": random.Random(0).randbytes(1 << 16),
    "nothing": b"",
    "little": b"moco_jax",
}


@pytest.mark.parametrize("text", STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_passed_over(address, text):
    ends = Ends()
    line = Line(address, 1, 0, 5.0, ends.of(0))
    with socket.create_connection(address) as stranger, contextlib.suppress(OSError):
        stranger.sendall(text)  # it may have hung up before all was said
        stranger.shutdown(socket.SHUT_WR)
        assert len(stranger.recv(1000)) <= 16, "a random number at most"
        assert stranger.recv(1000) == b""
    assert line.exchange(7) == [7]
    assert ends.empty()


def test_only_who_knows_the_token_comes_in(address, monkeypatch):
    """An impostor that comes first neither takes a place nor ends the run."""
    ends = Ends()
    first = Line(address, 2, 0, 20.0, ends.of(0), token=b"right")
    with pytest.raises(OSError, match="is it of another run"):
        Line(address, 2, 1, 0.3, Ends().of(1), token=b"wrong")
    second = Line(address, 2, 1, 20.0, ends.of(1), token=b"right")
    assert exchange([first, second], [3, 4]) == {0: [3, 4], 1: [3, 4]}
    assert ends.empty()


def test_a_proof_cannot_be_used_again(address):
    """What was heard on the line belongs to the hub's number on that connection."""
    token, hello = b"right", Hello(0, 1, "here")
    with socket.create_server(("", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        other.sendall(bytes(16))
        greet(one, token, hello, 1.0)
        heard = other.recv(1000)
        thread = threading.Thread(target=other.sendall, args=[heard])
        thread.start()
        assert admit(one, token, 1.0) is None


@pytest.mark.parametrize("index", [1, 99, 2**32 - 1])
def test_an_index_out_of_range_is_refused(address, index):
    ends = Ends()
    Line(address, 1, 0, 5.0, ends.of(0))
    Line(address, 1, index, 5.0, ends.of(index))
    assert ends.take(1)[index][0] == 2
    assert ends.empty()


def test_a_failure_without_a_code_is_no_success(address):
    ends = Ends()
    lines = connect(address, 2, ends)
    exchange(lines, [0, 1])
    lines[1].fail(0, "nothing")
    assert ends.take(1)[0][0] == 1


def test_a_crowd_of_silent_connections_keeps_nobody_out(address):
    ends = Ends()
    first = Line(address, 2, 0, 20.0, ends.of(0))
    crowd = [socket.create_connection(address) for _ in range(200)]
    second = Line(address, 2, 1, 20.0, ends.of(1))
    assert exchange([first, second], [3, 4]) == {0: [3, 4], 1: [3, 4]}
    for stranger in crowd:
        stranger.close()
    assert ends.empty()


def test_listens_where_it_was_told_to():
    assert door.listening_host("127.0.0.1") == "127.0.0.1"
    assert door.listening_host("localhost") in ("127.0.0.1", "::1")
    assert door.listening_host("192.0.2.1") == "", "an address of documentation, never this host"
    assert door.listening_host("no.such.host.invalid") == ""


def test_a_name_that_leads_only_this_machine_to_itself_is_heard_on_all_addresses(monkeypatch):
    """Debian's /etc/hosts gives a machine's own name 127.0.1.1; the others know another address."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert door.listening_host("node-of-debian") == ""


@pytest.fixture
def impatient(monkeypatch):
    for room in (switchboard, lifeline):
        monkeypatch.setattr(room, "QUIET", 0.2)
        monkeypatch.setattr(room, "TICK", 0.05)


def test_a_long_wait_names_who_is_missing_and_is_bounded(address, impatient, monkeypatch, caplog):
    monkeypatch.setattr(switchboard, "LATE", 0.6)
    ends = Ends()
    lines = connect(address, 2, ends)
    words = [0, "all to read the checkpoint"]
    thread = threading.Thread(target=lines[0].exchange, args=words, daemon=True)
    thread.start()
    for code, text in ends.take(2).values():
        assert code == 75
        assert f"process 1 on {socket.gethostname()}: all to read the checkpoint" in text
    assert "process 1 on" in caplog.text


def test_one_that_gives_no_sign_of_life_is_named_and_ends_all(
    address, impatient, monkeypatch, caplog
):
    """A process that is stopped keeps its connection: only its silence tells."""
    monkeypatch.setattr(switchboard, "GONE", 0.6)
    ends = Ends()
    first = Line(address, 2, 0, 20.0, ends.of(0))
    second = socket.create_connection(address)
    greet(second, token_of(f"{address[0]}:{address[1]}"), Hello(1, 2, "far"), 5.0)
    code, text = ends.take(1)[0]
    assert code == 75
    assert text.startswith("Process 1 on far has given no sign of life for")
    assert "stopped, or its machine is in trouble" in caplog.text
    second.close()
    first._socket.close()


def test_a_hub_that_gives_no_sign_of_life_ends_the_others(address, impatient, monkeypatch):
    monkeypatch.setattr(lifeline, "GONE", 0.6)
    ends = Ends()
    with socket.create_server(address) as server:

        def serve():
            hub, _ = server.accept()
            switchboard.send(hub, {"admitted": True})
            ends.put(hub)

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(lifeline, "greet", lambda *_: None)
        line = Line(address, 2, 1, 20.0, ends.of(1))
        hub = ends.get(timeout=5)
        code, text = ends.take(1)[1]
        assert code == 75
        assert text.startswith("Process 0 at 127.0.0.1 has given no sign of life for")
        assert line.held() == 0
        hub.close()
