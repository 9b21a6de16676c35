"""Batches made ahead of time by a thread, and the time truly lost in waiting for them."""

import atexit
import collections
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from moco_jax.errors import InputError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.001
_SIGNAL_SECONDS = 0.2  # in which a wait notices that nobody wants the batch any more
_PATIENCE = 30.0  # seconds for a batch in work to be done
_stuck: list[threading.Thread] = []  # that wait for a file system which does not answer
_IDLE: Callable[[], bool] = lambda: False  # noqa: E731


def end_with_stuck_threads(code: int) -> None:
    """Ends the process with this exit code, if Python's own way would wait for a read for ever."""
    if any(thread.is_alive() for thread in _stuck):
        for worker in multiprocessing.active_children():
            worker.kill()  # one that is stopped would stay for ever
        logging.shutdown()
        os._exit(code)


class Prefetcher:
    """Iterates over `batches` in a thread of its own, up to `depth` batches ahead.

    An error in the thread is raised in the consumer's next call, before any batch that is still
    in the buffer. The consumer ends with `close()`, or uses the object as a context manager.

    Attributes:
      wait_seconds: Total time that the consumer had nothing to do but wait for a batch.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, Any]],
        depth: int,
        put: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
          batches: A generator; it is closed in the thread.
          depth: Batches ready at most, at least 1.
          put: Applied to each batch in the thread: the transfer to the devices.
        """
        if depth < 1:
            raise InputError(f"data.prefetch={depth}: expected at least 1")
        self.wait_seconds = 0.0
        self._batches, self._depth, self._put = batches, depth, put
        self._ready: collections.deque[dict[str, Any]] = collections.deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        # A daemon thread that is still inside XLA when Python ends aborts the process.
        atexit.register(self.close)
        self._thread.start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return self.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(
        self, busy: Callable[[], bool] = _IDLE, gives_up: Callable[[], bool] = _IDLE
    ) -> dict[str, Any] | None:
        """Returns the next batch.

        Args:
          busy: Whether the device still has work. While it does, waiting here costs nothing and
            is not counted.
          gives_up: Whether to wait no longer, and to return None.

        Raises:
          StopIteration: after the last batch.
          RuntimeError: after `close()`.
        """
        with self._changed:
            idle = False
            while not (self._ready or self._ended or self._closed):
                if gives_up():
                    return None
                idle = idle or not busy()
                start = time.perf_counter()
                self._changed.wait(_SIGNAL_SECONDS if idle else _POLL_SECONDS)
                self.wait_seconds += (time.perf_counter() - start) if idle else 0.0
            if self._error:
                raise self._error
            if self._closed:
                raise RuntimeError("the prefetcher is closed")
            if not self._ready:
                raise StopIteration
            batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """Ends the thread and waits for its end, but not for ever. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            _stuck.append(self._thread)
            log.warning("A read hangs: its thread is left behind")
        atexit.unregister(self.close)

    def _fill(self) -> None:
        try:
            while self._room():
                batch = next(self._batches)
                batch = self._put(batch) if self._put else batch
                with self._changed:
                    self._ready.append(batch)
                    self._changed.notify_all()
        except StopIteration:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._batches.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Waits until another batch may be made; False when none is wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed
