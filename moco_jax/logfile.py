"""log.txt of a workdir: what the package logs, with times, and how the run failed."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Iterator

from moco_jax.bucket import BucketPath, Place
from moco_jax.files import cause

FILE = "log.txt"
_SECONDS = 60.0  # between two writings of an object, which is written anew each time


class _Log(logging.Handler):
    """What cannot be written is no reason to end anything, nor to say so line by line."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.add(self.format(record) + "\n")

    def add(self, line: str) -> None:
        raise NotImplementedError


class _File(_Log):
    """Opened for each line: a file that stays open would keep a disk from being unmounted."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self._path = path

    def add(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line)


class _Object(_Log):
    """An object in a bucket, which gets lines now and then, after those that it has."""

    def __init__(self, path: BucketPath):
        super().__init__()
        self._path, self._lines, self._next = path, "", time.monotonic() + _SECONDS

    def add(self, line: str) -> None:
        self._lines += line
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _SECONDS
            self._write()

    def _write(self) -> None:
        before = self._path.read_bytes() if self._path.exists() else b""
        self._path.write_bytes(before + self._lines.encode())
        self._lines = ""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._lines:  # `logging` closes again at the end of the program
                self._write()
        super().close()


@contextlib.contextmanager
def logged(workdir: Place) -> Iterator[None]:
    """Within the context, what the package logs is appended to `workdir/log.txt`, with times.

    In a bucket, once a minute and at the end.
    """
    path, package = workdir / FILE, logging.getLogger("moco_jax")
    handler = _Object(path) if isinstance(path, BucketPath) else _File(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    except Exception as error:
        record = {"levelno": logging.ERROR, "levelname": "ERROR", "msg": cause(error)}
        handler.emit(logging.makeLogRecord(record))
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
