"""Reading that is given up: of a file that does not come in time, its name is all that is lost.

A thread that waits in the system for a file (of a network that is gone, say) cannot be ended. So
each thread that decodes lets a thread of its own read, waits for it, and leaves it behind where it
takes too long; it ends by itself when the system answers, and never holds the program up.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from moco_jax.errors import BadImage, WorkerError

log = logging.getLogger(__name__)

MOST_WAITING = 64  # threads left behind that wait at a time, after which nothing more is tried

Read = Callable[[int], tuple[bytes, int]]


class Patience:
    """Calls `read`, but no longer than so many seconds for one image.

    It can be sent to another process, where it starts anew. Called from several threads at once.
    """

    def __init__(self, read: Read, item_name: Callable[[int], str], seconds: float):
        """Takes what reads an image by its index and what names it, and the seconds it may take."""
        self._read, self._item_name, self._seconds = read, item_name, seconds
        self._local = threading.local()
        self._waiting: dict[int, _Reader] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._read, self._item_name, self._seconds)

    def __call__(self, index: int) -> tuple[bytes, int]:
        """What `read` gives.

        Raises:
          BadImage: it took too long, now or before and has not come since.
          WorkerError: so did many others.
        """
        before = self._waiting.get(index)
        if before and before.waits():
            raise self._too_slow()
        if not hasattr(self._local, "reader"):
            self._local.reader = _Reader(self._read)
        try:
            found, error = self._local.reader.ask(index, self._seconds)
        except queue.Empty:
            self._give_up(index)
            raise self._too_slow() from None
        if error:
            raise error
        return found

    def _give_up(self, index: int) -> None:
        """Leaves the reader behind, and says at once why: the batch may have others to wait for."""
        log.warning("%s does not come: reading goes on without it", self._item_name(index))
        self._waiting[index] = self._local.reader
        self._local.reader.end()
        del self._local.reader
        count = sum(reader.waits() for reader in list(self._waiting.values()))
        if count > MOST_WAITING:
            raise WorkerError(
                f"{count} images at a time were {self._too_slow()}. The place that they are in "
                "does not answer"
            )

    def _too_slow(self) -> BadImage:
        return BadImage(f"not read within data.read_seconds={self._seconds:g}, and given up")


class _Reader:
    """A thread that reads what it is asked for, until its end or nobody holds this any more."""

    def __init__(self, read: Read):
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        queues = self._jobs, self._answers
        # A daemon: the program's end does not wait for it.
        threading.Thread(target=_work, args=(read, *queues), name="read", daemon=True).start()

    def ask(self, index: int, seconds: float) -> tuple[Any, BaseException | None]:
        """What reading an image gave, or the error; queue.Empty where neither comes in time."""
        self._jobs.put(index)
        return self._answers.get(timeout=seconds)

    def waits(self) -> bool:
        """Whether one that was left behind still has no answer."""
        return self._answers.empty()

    def end(self) -> None:
        """Asks for nothing more."""
        self._jobs.put(None)

    __del__ = end


def _work(read: Read, jobs: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while (index := jobs.get()) is not None:
        try:
            answers.put((read(index), None))
        except BaseException as error:
            answers.put((None, error))
