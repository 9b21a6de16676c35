"""Files of a run: written whole or not at all, tried again in trouble, read with care.

A disk that is full for a minute or a server that is away for a moment is no reason to end a run of
days; a side file that is damaged never stands between a run and its checkpoint.
"""

import contextlib
import csv
import errno
import io
import itertools
import json
import logging
import os
import pathlib
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from moco_jax import bucket
from moco_jax.bucket import BucketPath, Place
from moco_jax.errors import InputError, StorageError, WrongInputError
from moco_jax.places import BucketError

log = logging.getLogger(__name__)

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts
BUCKET_SECONDS = 120.0  # for which a bucket is tried at least
# What a disk, a file server or a full machine gives, and no mistake in a name or a permission.
TROUBLE = frozenset({
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN,
    errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO,
    errno.EFBIG, errno.ENOTRECOVERABLE,
})  # fmt: skip
_NUMBER_IN_TEXT = re.compile(r"os_error_code='(\d+)'")  # TensorStore's errors are ValueErrors

T = TypeVar("T")


def number_of(error: BaseException) -> int | None:
    """The operating system's number of an error, also of one that TensorStore tells as text."""
    found = _NUMBER_IN_TEXT.search(str(error))
    return int(found[1]) if found else getattr(error, "errno", None)


def is_trouble(error: BaseException) -> bool:
    """Whether the machine is to blame: the same may succeed later."""
    return isinstance(error, StorageError) or number_of(error) in TROUBLE


def cause(error: BaseException) -> str:
    """One line that names what happened, and the file where the error knows it."""
    number = number_of(error)
    lines = str(error).splitlines() or [repr(error)]
    if number is None or isinstance(error, OSError):
        return lines[0]
    file = re.search(r'"(/[^"]*)"', lines[0])
    return f"[Errno {number}] {os.strerror(number)}" + (f": {file[1]!r}" if file else "")


def retrying(
    what: str,
    action: Callable[[], T],
    again: Callable[[BaseException], bool] = lambda error: isinstance(error, OSError),
) -> T:
    """Returns what `action` gives, tried again with growing pauses while the machine fails.

    Args:
      what: is done, for the messages: 'writing /run/metrics.jsonl'.
      action: may be called several times.
      again: whether an error is one that may pass; wrong input never is.

    Raises:
      StorageError: every attempt failed; it names what and why.
    """
    begin = time.monotonic()
    for times in itertools.count(1):
        try:
            return action()
        except Exception as error:
            if isinstance(error, WrongInputError | StorageError) or not again(error):
                raise
            seconds = max(time.monotonic() - begin, sum(DELAYS[: times - 1]))
            patient = isinstance(error, BucketError) and seconds < BUCKET_SECONDS
            if times > len(DELAYS) and not patient:
                raise StorageError(
                    f"{what[0].upper()}{what[1:]} failed {times} times in {seconds:.0f} s, "
                    f"last with {cause(error)}; the same command resumes."
                ) from error
            delay = DELAYS[min(times, len(DELAYS)) - 1]
            log.warning("%s failed (%s); again in %.0f s", what, cause(error), delay)
        time.sleep(delay)


def replace(path: Place, content: str | bytes) -> None:
    """Writes `content` as the whole file `path` or, when that fails, leaves the one before.

    Raises:
      OSError: it fails.
    """
    content = content.encode() if isinstance(content, str) else content
    if isinstance(path, BucketPath):
        return path.write_bytes(content)
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()  # it would take the room that is missing
        raise


def write(path: Place, content: str | bytes) -> None:
    """As `replace`, tried again while the machine fails.

    Raises:
      StorageError: it still fails after some time.
    """
    retrying(f"writing {path}", lambda: replace(path, content))


def write_csv(path: pathlib.Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table as `write` does; makes its folder.

    Raises:
      StorageError: it still fails after some time.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, text.getvalue())


def append(path: Place, text: str) -> None:
    """Appends lines `text` to `path`, all of them or, when that fails for long, none.

    A bucket knows no appending: there the whole object is written anew.

    Raises:
      StorageError: it still fails after some time.
    """
    if isinstance(path, BucketPath):
        return write(path, read(path, missing=b"") + text.encode())

    def attempt() -> None:
        with path.open("ab") as f:
            size = f.tell()
            try:
                f.write(text.encode())
                f.flush()
            except OSError:
                f.truncate(size)  # not half a line
                raise

    retrying(f"writing {path}", attempt)


def read(path: Place, missing: bytes | None = None) -> bytes:
    """What a file holds; the reading of a bucket is tried again while it fails.

    Args:
      path: of the file.
      missing: what is given where there is none; None: a FileNotFoundError.

    Raises:
      OSError: a StorageError where a bucket still fails after some time.
    """
    try:
        if isinstance(path, BucketPath):
            return retrying(f"reading {path}", path.read_bytes, is_trouble)
        return path.read_bytes()
    except FileNotFoundError:
        if missing is None:
            raise
        return missing


def read_json(path: Place, kind: type[T], check: Callable[[Any], bool] = bool) -> T:
    """What a side file holds; an empty `kind` where there is none or, with a warning, damage.

    Args:
      path: of JSON.
      kind: dict or list.
      check: of the content; False means damage.
    """
    try:
        content = json.loads(read(path))
        if isinstance(content, kind) and (not content or check(content)):
            return content
        problem = f"it holds no {kind.__name__} as it should"
    except FileNotFoundError:
        return kind()
    except StorageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
    log.warning("%s is damaged and left out: %s", path, problem)
    return kind()


def read_arrays(path: Place) -> dict[str, np.ndarray]:
    """The arrays of an npz by name; {} where there is none or, with a warning, damage."""
    try:
        with np.load(_loadable(path), allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return {}
    except StorageError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        log.warning("%s is damaged and left out: %s", path, error)
        return {}


def _loadable(path: Place) -> pathlib.Path | io.BytesIO:
    return io.BytesIO(read(path)) if isinstance(path, BucketPath) else path


def as_npz(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    """What `read_arrays` reads."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)
    return content.getvalue()


def set_aside(path: Place) -> Place:
    """Renames a damaged file to a free name, never deletes it; returns the new path."""
    number, stem = 1, f"{path.stem}.damaged"
    while (aside := path.with_name(f"{stem}-{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    log.warning("%s was damaged and is now %s", path, aside.name)
    return aside


def workdir_path(workdir: str | os.PathLike | BucketPath) -> Place:
    """The absolute path of a working directory, or its address; ~ is the home.

    Raises:
      InputError: it is empty or an address of an unknown kind, or the home is not known.
    """
    if not str(workdir).strip():
        raise InputError("workdir='': expected a directory, e.g. --workdir=runs/demo")
    try:
        return bucket.place("workdir", workdir)
    except RuntimeError as error:
        raise InputError(f"workdir={str(workdir)!r}: {error}") from error


def prepare_workdir(workdir: str | os.PathLike | BucketPath) -> Place:
    """Makes the working directory; its path.

    Raises:
      InputError: it cannot be written.
      StorageError: so it is, but the machine is to blame and it may pass.
    """
    path = workdir_path(workdir)

    def attempt() -> None:
        if isinstance(path, BucketPath):
            probe = path / f".probe-{secrets.token_hex(8)}"
            probe.write_bytes(b"")
            return probe.unlink()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # a name of its own: other processes try too
            pass

    try:
        retrying(f"making workdir {path}", attempt, is_trouble)
    except StorageError:
        raise
    except OSError as error:
        raise InputError(f"workdir={str(workdir)!r} cannot be written: {error}") from error
    return path
