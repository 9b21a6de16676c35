"""Arrays in one file of the user's caches: written once, then mapped into memory, not read."""

import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np

from moco_jax import places
from moco_jax.errors import InputError

_WIDTH = 8  # bytes, to whose multiples each array is moved


def cache_file(cache_dir: str, name: str, what: str, ending: str) -> pathlib.Path:
    """Where something is kept: in `cache_dir`, or else where caches go.

    Args:
      cache_dir: `data.cache_dir`.
      name: for people to see.
      what: tells it from all others.
      ending: of the file's name.
    """
    digest = hashlib.sha256(os.fsencode(what)).hexdigest()[:16]
    return cache_folder(cache_dir) / f"{name}-{digest}.{ending}"


def cache_folder(cache_dir: str) -> pathlib.Path:
    """`data.cache_dir`, or else where caches go.

    Raises:
      InputError: it is in a bucket.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(cache_dir or os.path.join(home, "moco_jax")).expanduser()
    return places.local("data.cache_dir", folder)


def part_of(file: pathlib.Path) -> pathlib.Path:
    """What a file is called until it is whole: of each process its own, as hosts share homes."""
    return file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}.part")


def write(file: pathlib.Path, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file for `open_file`, whole or not at all, with a stamp that tells its content.

    So it does not matter which of several processes wrote it.

    Args:
      file: to write.
      head: what is JSON.
      arrays: by name.

    Raises:
      OSError: it fails.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    kinds = {name: [array.dtype.str, len(array)] for name, array in arrays.items()}
    digest = hashlib.sha256(json.dumps([head, kinds]).encode())
    for array in arrays.values():
        digest.update(array.view(np.uint8))
    head = {**head, "stamp": digest.hexdigest(), "arrays": kinds}
    part = part_of(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as out:
        out.write(json.dumps(head).encode() + b"\n")
        for array in arrays.values():
            out.write(bytes(-out.tell() % _WIDTH))
            array.tofile(out)
    part.replace(file)


def open_file(file: pathlib.Path, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a file, these mapped into memory.

    Raises:
      OSError: there is none, or it cannot be read.
      InputError, ValueError, KeyError: it is no such file, of another version, or cut short.
    """
    with file.open("rb") as opened:
        head = json.loads(opened.readline())
        at = opened.tell()
    if head.get("version") != version:
        raise InputError(f"{file} is of another version")
    data, arrays = np.memmap(file, np.uint8, "r"), {}
    for name, (kind, count) in head["arrays"].items():
        at += -at % _WIDTH
        arrays[name] = np.frombuffer(data, kind, count, at) if count else np.empty(0, kind)
        at += arrays[name].nbytes
    if len(data) != at:
        raise InputError(f"{file} is cut short")
    return head, arrays


def check_stamp(file: str, stamp: str, before: str) -> None:
    """Refuses a file that another run has made anew since it had another stamp.

    Args:
      file: for the error.
      stamp: of the file now.
      before: the one it had.

    Raises:
      InputError: it was.
    """
    if stamp != before:
        raise InputError(f"{file} was made anew by another run, for other files: start again")
