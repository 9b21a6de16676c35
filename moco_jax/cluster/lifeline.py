"""A line between the processes of a run: who is there, what each says, and who is gone.

Process 0 holds a hub, and every process, itself included, keeps one TCP connection to it, with one
JSON object a line. When a process dies its kernel closes the connection, so that all others know
at once; a host that falls silent is noticed by TCP's keep-alive. JAX's own service cannot tell
which processes are missing at start-up, notices a death only by missed heartbeats, and then aborts.
"""

import contextlib
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from moco_jax.cluster.switchboard import PATIENCE, Hub, keep_alive, messages, send
from moco_jax.errors import EXIT_RESTART

log = logging.getLogger(__name__)

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
          InputError: process 0 cannot listen on the port.
        """
        self._end, self._host, self._closed = end, address[0], False
        self._values: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._position, self._asked, self._held, self._last = 0, False, False, math.inf
        self._changed = threading.Condition()
        if index == 0:
            Hub(address, count, timeout)
        self._socket = _connect(address, index, timeout, end)
        send(self._socket, {"process": index, "of": count, "host": socket.gethostname()})
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def exchange(self, value: Any) -> list[Any]:
        """Sends a JSON value, waits for everyone's, and returns all of them by process."""
        send(self._socket, {"value": value})
        return self._values.get()

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
        """Ends the other processes too, with the same exit code; returns when they are told."""
        self._closed = True
        send(self._socket, {"failed": code, "text": text})
        self._values.get()  # the hub closes its end when all are told

    def close(self) -> None:
        """Leaves in good order: no alarm for the others."""
        self._closed = True
        send(self._socket, {"bye": True})
        with contextlib.suppress(queue.Empty):
            self._values.get(timeout=PATIENCE)  # the hub's answer

    def _listen(self) -> None:
        for message in messages(self._socket):
            if "values" in message:
                self._values.put(message["values"])
            elif "bye" in message:
                self._closed = True
                self._values.put([])
            elif "hold" in message:
                log.info("%s: all save and stop after the same step", message["hold"])
                self._hold()
            elif "last" in message:
                self._release(message["last"])
            elif not self._closed:
                self._closed = True
                self._end(message["over"], message["text"])
        if not self._closed:
            self._end(EXIT_RESTART, f"Process 0 at {self._host} died; the same command resumes.")
        self._values.put([])

    def _hold(self) -> None:
        """Reports the newest step; at most one more is begun until all have done so."""
        with self._changed:
            self._held = True
            send(self._socket, {"position": self._position})

    def _release(self, last: int) -> None:
        with self._changed:
            self._held, self._last = False, last
            self._changed.notify_all()


def _connect(address: tuple[str, int], index: int, timeout: float, end: End) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(address, timeout=PATIENCE)
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
    keep_alive(connection)
    return connection
