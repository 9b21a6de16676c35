"""Threads of this process, or of worker processes, that load rows into common buffers."""

import atexit
import contextlib
import functools
import logging
import math
import multiprocessing
import os
import pathlib
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from moco_jax.errors import InputError, WorkerError

log = logging.getLogger(__name__)

# An image of ImageNet's size holds the interpreter's lock for 3% of its time
# (benchmarks/RESULTS.md), so that eight threads leave three quarters of it to the trainer.
THREADS_PER_PROCESS = 8
LONG = 60.0  # seconds of a wait, after which it is said what is waited for
_PATIENCE = 10.0  # seconds that an ending worker is waited for
_CONTEXT = multiprocessing.get_context("spawn")  # a fork would inherit JAX's threads and locks

# (index, epoch, where the pixels go, an array for each buffer) -> anything that can be pickled
Load = Callable[[int, int, Sequence[np.ndarray]], Any]
Shapes = Sequence[Sequence[int]]


class Crew(NamedTuple):
    """What `start` gives.

    Attributes:
      buffers: uint8 (count, b, ...) each, the pixels of `count` batches.
      load: (number of the batch, rows, index, epoch) -> what `Load` gave for each row; waits for
        it. To be called by as many threads as there are decoders.
    """

    buffers: tuple[np.ndarray, ...]
    load: Callable[[int, slice, np.ndarray, np.ndarray], list[Any]]


def cores() -> int:
    """CPU cores that this process may use: its affinity, and a container's limit (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return count


def layout(threads: int, processes: int) -> tuple[int, int]:
    """Numbers of decoding threads and of the processes they run in, where 0 leaves the choice.

    A thread for each core; eight threads a process, so that up to eight run in the trainer itself.
    """
    threads = threads or cores()
    return threads, min(threads, processes or -(-threads // THREADS_PER_PROCESS))


@contextlib.contextmanager
def start(load: Load, shapes: Shapes, threads: int, processes: int) -> Iterator[Crew]:
    """Buffers of some shapes, and what loads rows into them: this process, or 2 and more others.

    Args:
      load: gives one row of each buffer.
      shapes: of the buffers, uint8.
      threads: over all processes.
      processes: that they run in; 1: this one.

    Raises:
      InputError: `load` cannot be sent to other processes.
    """
    if processes == 1:
        buffers = tuple(np.empty(shape, np.uint8) for shape in shapes)
        yield Crew(buffers, functools.partial(_load_rows, load, buffers))
        return
    with contextlib.closing(_Processes(load, shapes, threads, processes)) as crew:
        yield Crew(crew.buffers, crew.load)


def _load_rows(
    load: Load,
    buffers: tuple[np.ndarray, ...],
    slot: int,
    rows: slice,
    index: np.ndarray,
    epoch: np.ndarray,
) -> list[Any]:
    out = zip(*(buffer[slot, rows] for buffer in buffers))
    return list(map(load, index.tolist(), epoch.tolist(), out))


def _views(memory: Any, shapes: Shapes) -> tuple[np.ndarray, ...]:
    """Arrays of these shapes, one after the other in the same memory."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(np.frombuffer(memory, np.uint8), ends)
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes))


class _Processes:
    """Worker processes that end with this one, and end it (with an error) when one of them dies."""

    def __init__(self, load: Load, shapes: Shapes, threads: int, processes: int) -> None:
        memory = _CONTEXT.RawArray("B", sum(map(math.prod, shapes)))
        self.buffers = _views(memory, shapes)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        self._connections: list[Connection] = []
        self._lock, self._error = threading.Lock(), None
        task = _pickled(load)
        self._processes = []
        # multiprocessing's own exit handler waits for workers; it runs after this one.
        atexit.register(self.close)
        for n in range(processes):
            pairs = [_CONTEXT.Pipe() for _ in range(n, threads, processes)]
            args = task, memory, shapes, [theirs for _, theirs in pairs]
            process = _CONTEXT.Process(target=_work, args=args, name=f"data worker {n}")
            process.start()
            self._processes.append(process)
            for ours, theirs in pairs:
                theirs.close()
                self._connections.append(ours)
                self._idle.put((process, ours))

    def load(self, *job: Any) -> list[Any]:
        """Has the first idle thread of a worker load some rows, and waits for it."""
        process, connection = self._idle.get()
        try:
            connection.send(job)
            good, result = _answer(process, connection)
        except (EOFError, OSError) as error:
            raise self._broken(process) from error
        finally:
            self._idle.put((process, connection))
        if not good:
            raise result
        return result

    def _broken(self, process: multiprocessing.Process) -> WorkerError:
        """Ends all workers, so that nobody waits for them; gives the first's error to everyone."""
        with self._lock:
            if self._error is None:
                process.join(_PATIENCE)
                self._error = WorkerError(f"{process.name} (pid {process.pid}) {_end(process)}")
                for other in self._processes:
                    other.kill()
            return self._error

    def close(self) -> None:
        """Ends the workers: they leave when their connections close."""
        atexit.unregister(self.close)
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(_PATIENCE)
            process.kill()


def _answer(process: multiprocessing.Process, connection: Connection) -> tuple[bool, Any]:
    """What a worker answers; a wait that is long is said."""
    start = time.monotonic()
    while not connection.poll(LONG):
        log.warning(
            "%s (pid %d) has not answered for %.0f s: it is stopped, or a read hangs",
            process.name, process.pid, time.monotonic() - start,
        )  # fmt: skip
    return connection.recv()


def _pickled(load: Load) -> bytes:
    try:
        return pickle.dumps(load)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the data source cannot be sent to worker processes ({error}); data.processes=1 reads "
            "it in this one"
        ) from error


def _end(process: multiprocessing.Process) -> str:
    """How a worker ended, for the message."""
    code = process.exitcode
    if code is None:
        return "does not answer"
    if code >= 0:
        return f"ended with exit code {code}; its own message is above"
    memory = ": out of memory?" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{memory}"


def _work(task: bytes, memory: Any, shapes: Shapes, connections: list[Connection]) -> None:
    """A worker's life."""
    # Who stops the trainer signals the whole group; the trainer still needs batches to end well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    load, buffers = pickle.loads(task), _views(memory, shapes)
    for connection in connections[1:]:
        threading.Thread(target=_serve, args=(load, buffers, connection), daemon=True).start()
    _serve(load, buffers, connections[0])


def _serve(load: Load, buffers: tuple[np.ndarray, ...], connection: Connection) -> None:
    """Does the jobs of one connection until the other end is gone, with its process or not."""
    try:
        while True:
            job = connection.recv()
            try:
                reply = True, _load_rows(load, buffers, *job)
            except Exception as error:
                reply = False, _portable(error)
            connection.send(reply)
    except (EOFError, OSError):
        os._exit(0)  # at once, whatever the other threads are at


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, in a form that survives pickling."""
    note = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = WorkerError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a data worker:\n{note}")
    return error
