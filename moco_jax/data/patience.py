"""Reading that is given up: of a file that does not come in time, its name is all that is lost.

A thread that waits in the system for a file (of a network that is gone, say) cannot be ended. So
each thread that decodes lets a thread of its own read, waits for it, and leaves it behind where it
takes too long; it ends by itself when the system answers, and never holds the program up.

Folders are listed in the same way. That may take an hour, so that what counts is a sign of life.
"""

import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from moco_jax.errors import LateImage, StorageError

log = logging.getLogger(__name__)

MOST_WAITING = 64  # threads left behind that wait at a time, after which nothing more is tried
_LOOKS = 10  # at the signs of life in the time for one: a program that was stopped loses one look
_SHOWN = 5  # folders in a message
_AWAY = "the disk or server is away or overloaded; the same command goes on when it is back"

T = TypeVar("T")

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
          LateImage: it took too long, now or before and has not come since.
          StorageError: so did many others.
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
            raise StorageError(f"{count} images at a time were {self._too_slow()}: {_AWAY}")

    def _too_slow(self) -> LateImage:
        return LateImage(f"not read within data.read_seconds={self._seconds:g}, and given up")


class Pulse:
    """The signs of life of a file system, for all threads that list its folders.

    Attributes:
      beats: changes with each sign.
      waits_for: thread -> the path that it waits for.
    """

    def __init__(self):
        self.beats, self.waits_for = 0, {}

    def beat(self) -> None:
        """A sign of life."""
        self.beats += 1


_pulse = contextvars.ContextVar("pulse")  # of the listing that this thread is a part of


@contextlib.contextmanager
def waiting_for(path: str) -> Iterator[Callable[[], None]]:
    """Within it this thread waits for the system's answer on a path; gives what says "it lives"."""
    pulse, me = _pulse.get(None) or Pulse(), threading.get_ident()
    pulse.waits_for[me] = path
    try:
        yield pulse.beat
    finally:
        pulse.waits_for.pop(me, None)
        pulse.beat()


def while_it_lives(action: Callable[[], T], seconds: float) -> T:
    """What `action` gives, which says by `waiting_for` what it waits for.

    Args:
      action: lists folders; it is left behind where nothing of what it waits for answers.
      seconds: without a sign of life, after which it is; 0: never.

    Raises:
      StorageError: it was.
    """
    if not seconds:
        return action()
    pulse = Pulse()
    reader = _Reader(lambda _: (_pulse.set(pulse), action())[1])
    try:
        found, error = reader.ask(0, seconds, pulse)
    except queue.Empty:
        reader.end()
        silent = sorted(set(pulse.waits_for.values()))
        more = f" and {len(silent) - _SHOWN} more" if len(silent) > _SHOWN else ""
        raise StorageError(
            f"no answer for data.read_seconds={seconds:g} from {', '.join(silent[:_SHOWN])}{more}: "
            f"{_AWAY}"
        ) from None
    if error:
        raise error
    return found


def for_each(action: Callable[[Any], T], items: Sequence[Any], threads: int) -> list[T]:
    """What `action` gives for each item, by threads that never hold the program's end up."""
    jobs, answers = queue.SimpleQueue(), queue.SimpleQueue()
    numbered = lambda i: (i, action(items[i]))  # noqa: E731
    for job in [*range(len(items)), *[None] * threads]:
        jobs.put(job)
    for _ in range(min(threads, len(items))):
        run, work = contextvars.copy_context().run, (_work, numbered, jobs, answers)
        threading.Thread(target=run, args=work, name="list", daemon=True).start()
    found = {}
    for _ in items:
        numbered_answer, error = answers.get()
        if error:
            raise error
        found |= [numbered_answer]
    return [found[i] for i in range(len(items))]


class _Reader:
    """A thread that reads what it is asked for, until its end or nobody holds this any more."""

    def __init__(self, read: Read):
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        queues = self._jobs, self._answers
        # A daemon: the program's end does not wait for it.
        threading.Thread(target=_work, args=(read, *queues), name="read", daemon=True).start()

    def ask(
        self, index: int, seconds: float, pulse: Pulse | None = None
    ) -> tuple[Any, BaseException | None]:
        """What reading an image gave, or the error; queue.Empty where neither comes in time.

        With a pulse the time begins anew with each beat, and while nothing is waited for.
        """
        self._jobs.put(index)
        if pulse is None:
            return self._answers.get(timeout=seconds)
        silent = 0
        while silent < _LOOKS:
            before = pulse.beats
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=seconds / _LOOKS)
            silent = silent + 1 if pulse.waits_for and pulse.beats == before else 0
        raise queue.Empty

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
