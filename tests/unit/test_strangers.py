"""Who may come in at the line between processes, and what is said of who stays silent."""

import contextlib
import json
import random
import socket
import threading

import pytest

from moco_jax.cluster import door, lifeline, switchboard
from moco_jax.cluster.hello import Hello, admit, greet, token_of
from moco_jax.cluster.lifeline import Line
from moco_jax.cluster.rendezvous import Place
from tests.lines import Ends, connect, exchange, free_address


@pytest.fixture
def address():
    return free_address()


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


def test_the_token_is_that_of_the_run(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "MOCO_JAX_RUN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    tokens = {token_of("a:1"), token_of("a:2")}
    assert token_of("a:1") in tokens
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    tokens.add(token_of("a:1"))
    monkeypatch.setenv("MOCO_JAX_RUN_TOKEN", "secret")
    tokens |= {token_of("a:1"), token_of("a:2")}
    assert len(tokens) == 4, "one handed out counts alone"
    assert {len(token) for token in tokens} == {32}


def test_jaxs_service_listens_where_the_line_does():
    assert Place("127.0.0.1:99", 2, 0).bind == "127.0.0.1:99"
    assert Place("192.0.2.1:99", 2, 0).bind is None
    if socket.has_ipv6 and door.listening_host("::1"):
        assert Place("[::1]:99", 2, 0).bind == "[::1]:99"
