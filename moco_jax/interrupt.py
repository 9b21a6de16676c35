"""SIGTERM and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Within the context, gives a function that tells whether to stop after a step.

    Every process calls it after every step, with the step's number. One signal to any of several
    processes stops all of them after the same step. Outside the main thread, where Python takes
    no signal handlers, nothing is caught.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda position: False
        return
    together = jax.process_count() > 1

    def handler(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        log.warning("%s: saving and stopping ...", signal.Signals(number).name)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    # SIGTERM to one of several processes is JAX's: its service finds the step for all.
    signals = [signal.SIGINT] if together else [signal.SIGTERM, signal.SIGINT]
    previous = {s: signal.signal(s, handler) for s in signals}
    try:
        yield (
            multihost_utils.reached_preemption_sync_point
            if together
            else (lambda position: bool(received))
        )
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
