"""A line between the processes of a run: who is there, what each says, and who is gone.

Process 0 holds a hub, and every process, itself included, keeps one TCP connection to it, with one
JSON object a line. When a process dies its kernel closes the connection, so that all others know
at once; a host that falls silent is noticed by TCP's keep-alive. JAX's own service cannot tell
which processes are missing at start-up, notices a death only by missed heartbeats, and then aborts.
"""

import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from moco_jax.errors import EXIT_RESTART, EXIT_WRONG_INPUT

log = logging.getLogger(__name__)

_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # 30 s in all
_LONGEST = 1 << 24  # bytes of a message
_PATIENCE = 10.0  # seconds for a connection to say who it is
End = Callable[[int, str], None]


def end_process(code: int, text: str) -> None:
    """Ends the process at once: its main thread may wait for a dead one, for ever."""
    log.error("%s", text)
    logging.shutdown()
    os._exit(code)


class Line:
    """This process's end of the line.

    Once any process fails or dies, `end` is called with an exit code and what happened, on all.
    """

    def __init__(
        self,
        address: tuple[str, int],
        count: int,
        index: int,
        timeout: float,
        end: End = end_process,
    ):
        """Connects to process 0, and makes the hub in process 0 itself.

        Args:
          address: host and port of the hub.
          count: of the processes.
          index: of this one.
          timeout: seconds in which all processes have to come.
          end: what to do when the run is over for all.

        Raises:
          ValueError: process 0 cannot listen on the port.
        """
        self._end, self._host, self._closed = end, address[0], False
        self._values: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        if index == 0:
            _Hub(address, count, timeout)
        self._socket = _connect(address, index, timeout, end)
        _send(self._socket, {"process": index, "of": count, "host": socket.gethostname()})
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def exchange(self, value: Any) -> list[Any]:
        """Sends a JSON value, waits for everyone's, and returns all of them by process."""
        _send(self._socket, {"value": value})
        return self._values.get()

    def fail(self, code: int, text: str) -> None:
        """Ends the other processes too, with the same exit code; returns when they are told."""
        self._closed = True
        _send(self._socket, {"failed": code, "text": text})
        self._values.get()  # the hub closes its end when all are told

    def close(self) -> None:
        """Leaves in good order: no alarm for the others."""
        self._closed = True
        _send(self._socket, {"bye": True})

    def _listen(self) -> None:
        for message in _messages(self._socket):
            if "values" in message:
                self._values.put(message["values"])
            elif not self._closed:
                self._closed = True
                self._end(message["over"], message["text"])
        if not self._closed:
            self._end(EXIT_RESTART, f"Process 0 at {self._host} died; the same command resumes.")
        self._values.put([])


class _Hub:
    """What process 0 runs: a thread for each connection."""

    def __init__(self, address: tuple[str, int], count: int, timeout: float):
        self._count = count
        self._here: dict[int, tuple[socket.socket, str]] = {}
        self._values: dict[int, Any] = {}
        self._refused: list[str] = []
        self._over = False
        self._lock = threading.RLock()
        self._server = _listen_on(address)
        threading.Thread(target=self._accept, name="hub", daemon=True).start()
        roll_call = threading.Timer(timeout, self._call_roll, [timeout])
        roll_call.daemon = True
        roll_call.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            _keep_alive(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        messages = _messages(connection)
        index, orderly = self._admit(connection, messages), False
        if index is None:
            connection.close()
            return
        name = f"Process {index} on {self._here[index][1]}"
        for message in messages:
            if "value" in message:
                self._collect(index, message["value"])
            elif "failed" in message:
                self._stop(message["failed"], f"{name} stopped: {message['text']}", index)
            orderly = orderly or "value" not in message
        if not orderly:
            self._stop(EXIT_RESTART, f"{name} died; the same command resumes.")

    def _admit(self, connection: socket.socket, messages: Iterator[dict[str, Any]]) -> int | None:
        """The number of the process that came, or None for one that is not of the run."""
        connection.settimeout(_PATIENCE)
        hello = next(messages, None)
        connection.settimeout(None)
        if not isinstance(hello, dict) or "process" not in hello:
            return None  # a port scanner, not a process
        index, of, host = hello["process"], hello["of"], hello["host"]
        with self._lock:
            if of != self._count:
                problem = f"process {index} on {host} expects {of} processes, not {self._count}"
            elif index in self._here:
                problem = f"process {index} came from {self._here[index][1]} and from {host}"
            else:
                self._here[index] = connection, host
                return index
            self._refused.append(problem)
        _send(connection, {"over": EXIT_WRONG_INPUT, "text": f"Refused: {problem}"})
        return None

    def _collect(self, index: int, value: Any) -> None:
        with self._lock:
            self._values[index] = value
            if len(self._values) == self._count:
                values, self._values = self._values, {}
                self._tell({"values": [values[i] for i in range(self._count)]})

    def _call_roll(self, timeout: float) -> None:
        missing = [str(i) for i in range(self._count) if i not in self._here]
        if missing:
            here = ", ".join(f"{i} on {host}" for i, (_, host) in sorted(self._here.items()))
            text = f"Missing after {timeout:.0f} s: process {', '.join(missing)} of {self._count}"
            self._stop(EXIT_RESTART, "; ".join([f"{text} (here: {here})", *self._refused]))

    def _stop(self, code: int, text: str, done: int | None = None) -> None:
        """Tells all processes, once, that the run is over; `done` is the one that said so."""
        with self._lock:
            if not self._over:
                self._over = True
                self._tell({"over": code, "text": text})
            if done is not None:
                self._here[done][0].shutdown(socket.SHUT_RDWR)

    def _tell(self, message: dict[str, Any]) -> None:
        for index in sorted(self._here, reverse=True):  # process 0 last: it holds the hub
            _send(self._here[index][0], message)


def _listen_on(address: tuple[str, int]) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", address[1]), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", address[1]))
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on port {address[1]} ({error.strerror}): does another "
            f"process 0 run here? Another coordinator port may be free."
        ) from error


def _connect(address: tuple[str, int], index: int, timeout: float, end: End) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(address, timeout=_PATIENCE)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                end(
                    EXIT_RESTART,
                    f"Process {index} did not reach process 0 at {address[0]}:{address[1]} within "
                    f"{timeout:.0f} s: {error}",
                )
                raise
        time.sleep(0.2)
    connection.settimeout(None)
    _keep_alive(connection)
    return connection


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message; one that cannot arrive is for `_messages` of the same connection to tell."""
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        log.debug("not sent", exc_info=True)


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The messages of the other end, until it closes or falls silent, or talks something else."""
    with connection.makefile("rb") as lines:
        try:
            while line := lines.readline(_LONGEST):
                yield json.loads(line)
        except (OSError, ValueError):
            log.debug("the line is broken", exc_info=True)
