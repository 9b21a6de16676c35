"""SIGTERM and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from moco_jax.cluster.lifeline import Line

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_requested(line: Line | None = None) -> Iterator[Callable[[int], bool]]:
    """Within the context, gives a function that tells whether to stop after a step.

    Every process calls it after every step, with the step's number: one signal to any of them
    stops all after the same step. (JAX has a service for this. It fails when an asynchronous save
    is under way, in which Orbax asks it about a step that has passed.) Outside the main thread,
    where Python takes no signal handlers, nothing is caught.

    Args:
      line: to the other processes of the run, if there are some.
    """
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda position: False
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        log.warning("%s: saving and stopping ...", received[-1])

    def stop(position: int) -> bool:
        return line.stops(position, "".join(received[:1])) if line else bool(received)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
