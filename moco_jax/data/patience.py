"""Reading that is given up: of a file that does not come in time, its name is all that is lost.

A thread that waits in the system for a file (of a network that is gone, say) cannot be ended. So
each thread that decodes lets a thread of its own read, waits for it, and leaves it behind where it
takes too long; it ends by itself when the system answers, and never holds the program up.
"""

import concurrent.futures
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
        self._waiting: dict[int, concurrent.futures.Future] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._read, self._item_name, self._seconds)

    def __call__(self, index: int) -> tuple[bytes, int]:
        """What `read` gives.

        Raises:
          BadImage: it took too long, now or before and has not come since.
          WorkerError: so did many others.
        """
        before = self._waiting.get(index)
        if before and not before.done():
            raise self._too_slow()
        if not hasattr(self._local, "reader"):
            self._local.reader = _Reader(self._read)
        answer = self._local.reader.ask(index)
        concurrent.futures.wait([answer], self._seconds)
        if answer.done():
            return answer.result()
        del self._local.reader  # it stays behind
        self._give_up(index, answer)
        raise self._too_slow()

    def _give_up(self, index: int, answer: concurrent.futures.Future) -> None:
        """Says at once which image it is: the batch may have others to wait for."""
        log.warning("%s does not come: reading goes on without it", self._item_name(index))
        self._waiting[index] = answer
        count = sum(not answer.done() for answer in list(self._waiting.values()))
        if count > MOST_WAITING:
            raise WorkerError(
                f"{count} images at a time were {self._too_slow()}. The place that they are in "
                "does not answer"
            )

    def _too_slow(self) -> BadImage:
        return BadImage(f"not read within data.read_seconds={self._seconds:g}, and given up")


class _Reader:
    """A thread that reads what it is asked for, until nobody holds this any more."""

    def __init__(self, read: Read):
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        # A daemon: the program's end does not wait for it.
        threading.Thread(target=_work, args=(read, self._jobs), name="read", daemon=True).start()

    def ask(self, index: int) -> concurrent.futures.Future:
        """Gives it an image to read."""
        answer = concurrent.futures.Future()
        self._jobs.put((index, answer))
        return answer

    def __del__(self) -> None:
        self._jobs.put(None)


def _work(read: Read, jobs: queue.SimpleQueue) -> None:
    while job := jobs.get():
        index, answer = job
        try:
            answer.set_result(read(index))
        except BaseException as error:
            answer.set_exception(error)
        del job, answer  # nothing is held while it waits
