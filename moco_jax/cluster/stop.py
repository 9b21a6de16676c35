"""SIGTERM and Ctrl-C: while steps are made all save and stop; before and after, all end at once."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from moco_jax.cluster.lifeline import Line

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 20.0  # seconds of a stop, after which several processes no longer wait for a batch


class Stop:
    """The wish to stop, as the loop asks for it."""

    def __init__(self, line: Line | None = None):
        self._line, self._received = line, ""
        self._since = 0.0

    def __call__(self, position: int) -> bool:
        """Whether this step, that was just begun, is to be the last; for all processes the same.

        To be called after every step.
        """
        return self._line.stops(position, self._received) if self._line else bool(self._received)

    def gives_up(self) -> bool:
        """Whether the next batch is no longer waited for.

        A process of its own saves what it has. Of several, the others may have begun the next
        step, so that a batch that does not come ends all, after a while.
        """
        if not self._line:
            return bool(self._received)
        own = time.monotonic() - self._since if self._received else 0.0
        return max(own, self._line.held()) > _GRACE

    def receive(self, number: int, frame: FrameType | None) -> None:
        """What a signal does; a second Ctrl-C stops at once.

        Args:
          number: of the signal.
          frame: as Python's `signal` gives it; not read.
        """
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or signal.Signals(number).name
        self._since = self._since or time.monotonic()
        log.warning("%s: saving and stopping ...", signal.Signals(number).name)


@contextlib.contextmanager
def stop_requested(line: Line | None = None) -> Iterator[Stop]:
    """Within the context, a signal makes the Stop that is given say so.

    One signal to any process stops all after the same step. (JAX has a service for this. It fails
    when an asynchronous save is under way, in which Orbax asks it about a step that has passed.)
    Outside the main thread, where Python takes no signal handlers, nothing is caught.

    Args:
      line: to the other processes of the run, if there are some.
    """
    stop = Stop(line)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    wakeup = signal.set_wakeup_fd(-1)  # `ends_at_once` is not to hear of these
    previous = {s: signal.signal(s, stop.receive) for s in _SIGNALS}
    try:
        yield stop
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
        signal.set_wakeup_fd(wakeup)


@contextlib.contextmanager
def ends_at_once(end: Callable[[str], None]) -> Iterator[None]:
    """Within the context, a signal calls `end` with its name, in a thread of its own.

    At once, although the main thread may be compiling for minutes: Python's handlers would wait.

    Args:
      end: ends the process.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    previous = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}

    def listen() -> None:
        while received := os.read(reading, 1):
            if received[0] in _SIGNALS:
                end(signal.Signals(received[0]).name)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
