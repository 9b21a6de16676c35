"""The hub of the line between processes (see cluster.lifeline), and how messages travel on it."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from moco_jax.cluster.door import Door
from moco_jax.cluster.hello import Hello
from moco_jax.errors import EXIT_FAILED, EXIT_RESTART, EXIT_WRONG_INPUT

log = logging.getLogger(__name__)

TICK = 5.0  # seconds between two signs of life
QUIET = 60.0  # seconds of waiting, after which it is said for whom
GONE = 600.0  # seconds without a sign of life, after which a process counts as gone
LATE = 3600.0  # seconds in which all must have come to a point where they wait for each other
_LONGEST = 1 << 24  # bytes of a message


class Hub:
    """What process 0 runs: a thread for each connection."""

    def __init__(self, address: tuple[str, int], count: int, timeout: float, token: bytes):
        """Listens on the port of `address` for `count` processes, `timeout` seconds long.

        Raises:
          InputError: the port is taken.
        """
        self._count = count
        self._here: dict[int, tuple[socket.socket, str]] = {}
        self._heard: dict[int, float] = {}
        self._values: dict[int, Any] = {}
        self._waiting: tuple[float, str] | None = None  # since when, and for what
        self._positions: dict[int, int] | None = None  # None until one wants to stop
        self._refused: list[str] = []
        self._over = False
        self._lock = threading.RLock()
        Door(address, token, self._serve)
        threading.Thread(target=self._watch, args=[timeout], name="hub", daemon=True).start()

    def _serve(self, connection: socket.socket, hello: Hello) -> None:
        if not self._take_in(connection, hello):
            connection.close()
            return
        index, orderly = hello.index, False
        name = self._name(index)
        for message in messages(connection):
            self._heard[index] = time.monotonic()
            if "value" in message:
                self._collect(index, message["value"], message["what"])
            elif "stop" in message:
                self._hold(f"{message['stop']} to {name[0].lower()}{name[1:]}")
            elif "position" in message:
                self._collect_position(index, message["position"])
            elif "failed" in message:
                code = message["failed"] or EXIT_FAILED
                self._stop(code, f"{name} stopped: {message['text']}", index)
            elif "bye" in message:
                self._part(index)
            orderly = orderly or "failed" in message or "bye" in message
        if not orderly:
            self._stop(EXIT_RESTART, f"{name} died; the same command resumes.")
        with self._lock:
            del self._here[index]
            self._settle()

    def _take_in(self, connection: socket.socket, hello: Hello) -> bool:
        index, of, host = hello
        with self._lock:
            if of != self._count or index >= of:
                problem = f"process {index} on {host} expects {of} processes, not {self._count}"
            elif index in self._here:
                problem = f"process {index} came from {self._here[index][1]} and from {host}"
            else:
                self._here[index] = connection, host
                self._heard[index] = time.monotonic()
                send(connection, {"admitted": True})
                return True
            self._refused.append(problem)
        send(connection, {"over": EXIT_WRONG_INPUT, "text": f"Refused: {problem}"})
        return False

    def _name(self, index: int) -> str:
        return f"Process {index} on {self._here[index][1]}"

    def _collect(self, index: int, value: Any, what: str) -> None:
        with self._lock:
            self._waiting = self._waiting or (time.monotonic(), what)
            self._values[index] = value
            if len(self._values) == self._count:
                values, self._values, self._waiting = self._values, {}, None
                self._tell({"values": [values[i] for i in range(self._count)]})

    def _hold(self, reason: str) -> None:
        with self._lock:
            if self._positions is None:
                self._positions = {}
                self._waiting = time.monotonic(), "all to stop after the same step"
                self._tell({"hold": reason})

    def _collect_position(self, index: int, position: int) -> None:
        with self._lock:
            self._positions[index] = position
            self._settle()

    def _settle(self) -> None:
        """Names the last step once all that are still here have told where they are."""
        if self._positions and self._positions.keys() >= self._here.keys():
            self._waiting = None
            self._tell({"last": max(self._positions.values()) + 1})

    def _part(self, index: int) -> None:
        """Answers a farewell; that of process 0, with which the hub goes, is told to all."""
        with self._lock:
            if index == 0:
                self._tell({"bye": True})
            else:
                send(self._here[index][0], {"bye": True})

    def _watch(self, timeout: float) -> None:
        """Calls the roll once, and asks everyone for signs of life for ever."""
        start, called, said = time.monotonic(), False, 0.0
        while not self._over:
            before = time.monotonic()
            time.sleep(min(TICK, timeout / 4) if not called else TICK)
            now = time.monotonic()
            with self._lock:
                if now - before > 3 * TICK:  # it was this process that slept
                    self._heard = dict.fromkeys(self._heard, now)
                if not called and now - start > timeout:
                    called = True
                    self._call_roll(timeout)
                self._tell({"alive": True})
                late = [*self._silent(now), *self._awaited(now)]
                if late and now - said > QUIET:
                    said = now
                    self._tell({"note": "; ".join(late)})

    def _silent(self, now: float) -> list[str]:
        texts = []
        for index in self._here:
            silence = now - self._heard[index]
            text = f"{self._name(index)} has given no sign of life for {silence:.0f} s"
            if silence > GONE:
                self._stop(EXIT_RESTART, f"{text}; the same command resumes.")
            elif silence > QUIET:
                texts.append(f"{text}: stopped, or its machine is in trouble")
        return texts

    def _awaited(self, now: float) -> list[str]:
        if self._waiting is None or now - self._waiting[0] < QUIET:
            return []
        since, what = self._waiting
        told = self._values if self._values else self._positions or {}
        names = ", ".join(
            f"process {i} on {host}" for i, (_, host) in self._here.items() if i not in told
        )
        text = f"Waiting for {now - since:.0f} s for {names}: {what}"
        if now - since > LATE:
            self._stop(EXIT_RESTART, f"{text}; the same command resumes.")
        return [text]

    def _call_roll(self, timeout: float) -> None:
        missing = [str(i) for i in range(self._count) if i not in self._heard]
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
