"""SIGTERM and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger(__name__)

# sysexits' EX_TEMPFAIL: the run was stopped in good order and the same command resumes it.
EXIT_INTERRUPTED = 75


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the context, gives a function that tells whether a stop was asked for.

    Outside the main thread, where Python takes no signal handlers, nothing is caught.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        log.warning("%s: saving and stopping ...", signal.Signals(number).name)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
