"""A line between the processes of a run: who is there, what each says, and who is gone.

Process 0 holds a hub, and every process, itself included, keeps one TCP connection to it, with one
JSON object a line. When a process dies its kernel closes the connection, so that all others know
at once; a host that falls silent is noticed by TCP's keep-alive. JAX's own service cannot tell
which processes are missing at start-up, notices a death only by missed heartbeats, and then aborts.
"""

import contextlib
import itertools
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from moco_jax.cluster import lock
from moco_jax.cluster.door import PATIENCE, keep_alive
from moco_jax.cluster.hello import Hello, greet, token_of
from moco_jax.cluster.switchboard import GONE, QUIET, TICK, Hub, messages, send
from moco_jax.errors import EXIT_RESTART

log = logging.getLogger(__name__)

End = Callable[[int, str], None]


def end_process(code: int, text: str) -> None:
    """Ends the process at once: its main thread may wait for a dead one, for ever.

    Args:
      code: exit code.
      text: why, for the log.
    """
    log.error("%s", text)
    lock.release()
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
        token: bytes | None = None,
    ):
        """Connects to process 0, and makes the hub in process 0 itself.

        Args:
          address: host and port of the hub.
          count: of the processes.
          index: of this one.
          timeout: seconds in which all processes have to come.
          end: what to do when the run is over for all.
          token: that only this run's processes know; None: see `hello.token_of`.

        Raises:
          InputError: process 0 cannot listen on the port.
        """
        self.index = index
        self._end, self._host, self._closed = end, address[0], False
        self._values: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._position, self._asked, self._held, self._last = 0, False, False, math.inf
        self._changed = threading.Condition()
        self._heard = self._held_since = time.monotonic()
        token = token or token_of(f"{address[0]}:{address[1]}")
        if index == 0:
            Hub(address, count, timeout, token)
        hello = Hello(index, count, socket.gethostname())
        self._socket, incoming = _connect(address, hello, token, timeout, end)
        threading.Thread(target=self._listen, args=[incoming], name="line", daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def exchange(self, value: Any, what: str = "all to come to the same point") -> list[Any]:
        """Sends a JSON value, waits for everyone's, and returns all of them by process.

        A wait that is long is said, with the missing processes' names, and is bounded: then all
        end, to be started again.

        Args:
          value: of this process.
          what: is waited for.
        """
        send(self._socket, {"value": value, "what": what})
        return self._values.get()

    def held(self) -> float:
        """For how many seconds all have been asked to stop; 0 where nobody wishes it."""
        asked = self._held or self._last < math.inf
        return time.monotonic() - self._held_since if asked else 0.0

    def stops(self, position: int, wish: str) -> bool:
        """Whether this step, the same for all processes, is to be the last.

        Once one process wishes it, all are held where they are, at the end of the step they have
        begun, until the hub has heard from everyone; the last step is one more than the highest.

        Args:
          position: the step that was just begun; to be called after each.
          wish: why this process wants to stop; "" as long as it does not.
        """
        with self._changed:
            self._position = position
            if wish and not self._asked:
                self._asked = True
                send(self._socket, {"stop": wish})
            self._changed.wait_for(lambda: not self._held)
            return position >= self._last

    def fail(self, code: int, text: str) -> None:
        """Ends the other processes too, with the same exit code; returns when they are told.

        Args:
          code: exit code of all.
          text: what happened, which the others say.
        """
        self._closed = True
        send(self._socket, {"failed": code, "text": text})
        with contextlib.suppress(queue.Empty):
            self._values.get(timeout=PATIENCE)  # the hub closes its end when all are told

    def close(self) -> None:
        """Leaves in good order: no alarm for the others."""
        self._closed = True
        send(self._socket, {"bye": True})
        with contextlib.suppress(queue.Empty):
            self._values.get(timeout=PATIENCE)  # the hub's answer

    def _listen(self, incoming: Iterator[dict[str, Any]]) -> None:
        for message in incoming:
            self._heard = time.monotonic()
            if "alive" in message:
                send(self._socket, message)
            elif "note" in message:
                log.warning("%s", message["note"])
            elif "values" in message:
                self._values.put(message["values"])
            elif "bye" in message:
                self._closed = True
                self._values.put([])
            elif "hold" in message:
                log.info("%s: all save and stop after the same step", message["hold"])
                self._hold()
            elif "last" in message:
                self._release(message["last"])
            elif "over" in message and not self._closed:
                self._closed = True
                self._end(message["over"], message["text"])
        if not self._closed:
            self._end(EXIT_RESTART, f"Process 0 at {self._host} died; the same command resumes.")
        self._values.put([])

    def _watch(self) -> None:
        """Ends this process where the hub falls silent, as it does with a process 0 that stands."""
        said = False
        while not self._closed:
            before = time.monotonic()
            time.sleep(TICK)
            now = time.monotonic()
            if now - before > 3 * TICK:  # it was this process that slept
                self._heard = now
            silence = now - self._heard
            text = f"Process 0 at {self._host} has given no sign of life for {silence:.0f} s"
            if silence > GONE and not self._closed:
                self._closed = True
                self._end(EXIT_RESTART, f"{text}; the same command resumes.")
            elif silence > QUIET and not said:
                log.warning("%s: stopped, or its machine is in trouble", text)
            said = silence > QUIET

    def _hold(self) -> None:
        """Reports the newest step; at most one more is begun until all have done so."""
        with self._changed:
            self._held, self._held_since = True, time.monotonic()
            send(self._socket, {"position": self._position})

    def _release(self, last: int) -> None:
        with self._changed:
            self._held, self._last = False, last
            self._changed.notify_all()


def _connect(
    address: tuple[str, int], hello: Hello, token: bytes, timeout: float, end: End
) -> tuple[socket.socket, Iterator[dict[str, Any]]]:
    """A connection on which the hub has answered, and its messages."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _enter(address, hello, token)
        except OSError as error:
            if time.monotonic() > deadline:
                end(
                    EXIT_RESTART,
                    f"Process {hello.index} did not reach process 0 at {address[0]}:{address[1]} "
                    f"within {timeout:.0f} s: {error}",
                )
                raise
        time.sleep(0.2)


def _enter(
    address: tuple[str, int], hello: Hello, token: bytes
) -> tuple[socket.socket, Iterator[dict[str, Any]]]:
    connection = socket.create_connection(address, timeout=PATIENCE)
    try:
        greet(connection, token, hello, PATIENCE)
        incoming = messages(connection)
        connection.settimeout(PATIENCE)
        first = next(incoming, None)
        if first is None:
            raise ConnectionRefusedError(
                "it hung up; is it of another run? Coordinator, job or $MOCO_JAX_RUN_TOKEN differ"
            )
    except OSError:
        connection.close()
        raise
    connection.settimeout(None)
    keep_alive(connection)
    return connection, itertools.chain([first], incoming)
