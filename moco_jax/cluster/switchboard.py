"""The hub of the line between processes (see cluster.lifeline), and how messages travel on it."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

from moco_jax.errors import EXIT_RESTART, EXIT_WRONG_INPUT, InputError

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for a connection to be made and to say who it is
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # 30 s in all
_LONGEST = 1 << 24  # bytes of a message


class Hub:
    """What process 0 runs: a thread for each connection."""

    def __init__(self, address: tuple[str, int], count: int, timeout: float):
        """Listens on the port of `address` for `count` processes, `timeout` seconds long.

        Raises:
          InputError: the port is taken.
        """
        self._count = count
        self._here: dict[int, tuple[socket.socket, str]] = {}
        self._values: dict[int, Any] = {}
        self._positions: dict[int, int] | None = None  # None until one wants to stop
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
            keep_alive(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        incoming = messages(connection)
        index, orderly = self._admit(connection, incoming), False
        if index is None:
            connection.close()
            return
        name = f"Process {index} on {self._here[index][1]}"
        for message in incoming:
            if "value" in message:
                self._collect(index, message["value"])
            elif "stop" in message:
                self._hold(f"{message['stop']} to {name[0].lower()}{name[1:]}")
            elif "position" in message:
                self._collect_position(index, message["position"])
            elif "failed" in message:
                self._stop(message["failed"], f"{name} stopped: {message['text']}", index)
            elif "bye" in message:
                self._part(index)
            orderly = orderly or "failed" in message or "bye" in message
        if not orderly:
            self._stop(EXIT_RESTART, f"{name} died; the same command resumes.")
        with self._lock:
            del self._here[index]
            self._settle()

    def _admit(self, connection: socket.socket, incoming: Iterator[dict[str, Any]]) -> int | None:
        """The number of the process that came, or None for one that is not of the run."""
        connection.settimeout(PATIENCE)
        hello = next(incoming, None)
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
        send(connection, {"over": EXIT_WRONG_INPUT, "text": f"Refused: {problem}"})
        return None

    def _collect(self, index: int, value: Any) -> None:
        with self._lock:
            self._values[index] = value
            if len(self._values) == self._count:
                values, self._values = self._values, {}
                self._tell({"values": [values[i] for i in range(self._count)]})

    def _hold(self, reason: str) -> None:
        with self._lock:
            if self._positions is None:
                self._positions = {}
                self._tell({"hold": reason})

    def _collect_position(self, index: int, position: int) -> None:
        with self._lock:
            self._positions[index] = position
            self._settle()

    def _settle(self) -> None:
        """Names the last step once all that are still here have told where they are."""
        if self._positions and self._positions.keys() >= self._here.keys():
            self._tell({"last": max(self._positions.values()) + 1})

    def _part(self, index: int) -> None:
        """Answers a farewell; that of process 0, with which the hub goes, is told to all."""
        with self._lock:
            if index == 0:
                self._tell({"bye": True})
            else:
                send(self._here[index][0], {"bye": True})

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
            send(self._here[index][0], message)


def _listen_on(address: tuple[str, int]) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", address[1]), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", address[1]))
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {address[1]} ({error.strerror}): does another "
            f"process 0 run here? Another coordinator port may be free."
        ) from error


def keep_alive(connection: socket.socket) -> None:
    """Has TCP ask a silent other end whether it is there, and break the connection if not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message; one that cannot arrive is for `messages` of the same connection to tell."""
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        log.debug("not sent", exc_info=True)


def messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The messages of the other end, until it closes or falls silent, or talks something else."""
    with connection.makefile("rb") as lines:
        try:
            while line := lines.readline(_LONGEST):
                yield json.loads(line)
        except (OSError, ValueError):
            log.debug("the line is broken", exc_info=True)
