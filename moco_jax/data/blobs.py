"""Files of file systems and objects of buckets, found by patterns and read in parts.

A pattern is a path or an address (gs://..., s3://...) with `{000..127}` or `{a,b}`, which stand for
each of these, as `{train-{0..9},val}` does, and `*`, `?`, `[...]`, `**` for whatever is there.
"""

import functools
import glob
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

from moco_jax import places
from moco_jax.data.patience import for_each, waiting_for
from moco_jax.data.source import existing
from moco_jax.errors import InputError, MissingError
from moco_jax.files import is_trouble, retrying

_ASKED = 16  # at a time
# An answer of a bucket may take so long; less than data.read_seconds, after which the image would
# be to blame.
_SECONDS = 30.0
_PART = r"[^{},]|\{[^{}]*\}"  # of what stands between commas: braces in braces, once
_BRACE = re.compile(rf"\{{((?:{_PART}|,)*)\}}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # paths that a pattern may stand for
_STAMPS = ("generation", "etag", "ETag", "md5Hash", "mtime", "LastModified")  # the surest first


class Blob(NamedTuple):
    """A file or an object.

    Attributes:
      path: absolute, or an address.
      size: bytes.
      stamp: is another one once the content is.
    """

    path: str
    size: int
    stamp: str


def expand(pattern: str) -> list[str]:
    """What the braces of a pattern stand for, in order; digits keep the width of `{000..127}`.

    Raises:
      InputError: a brace is empty or open, a range runs down, or they are too many.
    """
    found = _BRACE.search(pattern)
    if not found:
        if "{" in pattern or "}" in pattern:
            raise InputError(f"{pattern!r}: a brace without its other; expected {{000..127}}")
        return [pattern]
    before, after, values = pattern[: found.start()], pattern[found.end() :], []
    for part in _alternatives(pattern, found[1]):
        values += expand(part)
    ends = expand(after)
    if len(values) * len(ends) > _MOST:
        raise InputError(f"{pattern!r} stands for {len(values) * len(ends):,} paths")
    return [before + value + end for value, end in itertools.product(values, ends)]


def _alternatives(pattern: str, inside: str) -> Sequence[str]:
    """What one brace stands for; the parts may have braces themselves."""
    if not (numbers := _RANGE.fullmatch(inside)):
        parts = re.findall(rf"(?:^|(?<=,))(?:{_PART})*(?=,|$)", inside)
        if len(parts) < 2:
            raise InputError(f"{pattern!r}: {{{inside}}}; expected {{000..127}} or {{a,b}}")
        return parts
    first, last = map(int, numbers.groups())
    if last < first or last - first >= _MOST:
        raise InputError(f"{pattern!r}: {{{inside}}}; expected the smaller number first, and at "
                         f"most {_MOST:,}")  # fmt: skip
    width = max(len(n) for n in numbers.groups()) if inside.startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def find(option: str, pattern: str, ending: str) -> list[Blob]:
    """The files that a pattern stands for; of a folder all with that ending, at any depth.

    Args:
      option: that names the files, for an error.
      pattern: with braces or wildcards, or a folder.
      ending: '.tar'.

    Raises:
      InputError: of `expand`, an unknown scheme, or something that is no file.
      MissingError: nothing is there, or one of those that the braces stand for is missing.
      StorageError: a bucket does not answer.
    """
    paths = expand(pattern)
    ask = functools.partial(_find, option, ending)
    found = dict(zip(paths, for_each(ask, paths, _ASKED)))
    missing = [path for path in paths if not found[path]]
    if missing and len(paths) == 1 and not (places.scheme(pattern) or glob.has_magic(pattern)):
        existing(pattern)
    if missing:
        many = f"{len(missing):,} of {len(paths):,} are missing, the first: " if paths[1:] else ""
        raise MissingError(f"{option}: {many}{missing[0]} does not exist, or holds no {ending}")
    return list(itertools.chain.from_iterable(found.values()))


def _find(option: str, ending: str, path: str) -> list[Blob]:
    """What one pattern without braces stands for."""
    ask = functools.partial(_find_remote if places.scheme(path) else _find_local, option)
    try:
        return sorted(retrying(f"looking for {path}", lambda: ask(ending, path), is_trouble))
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise InputError(f"{option}: no access: {error}") from error


def _find_local(option: str, ending: str, path: str) -> list[Blob]:
    path = os.path.abspath(os.path.expanduser(path))
    with waiting_for(path):
        return _list_local(option, ending, path)


def _list_local(option: str, ending: str, path: str) -> list[Blob]:
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "**", f"*{ending}")
    names = glob.glob(path, recursive=True) if glob.has_magic(path) else [path]
    return [
        _local(option, name) for name in names if os.path.exists(name) and not os.path.isdir(name)
    ]


def _local(option: str, path: str) -> Blob:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{option}: {path} is no file")
    return Blob(path, status.st_size, str(status.st_mtime_ns))


def _find_remote(option: str, ending: str, address: str) -> list[Blob]:
    scheme, path = places.split(option, address)
    files = places.filesystem(scheme)
    with places.translated(address):
        if glob.has_magic(path):
            found = files.glob(path, detail=True)
        elif (info := files.info(path))["type"] == "directory":
            inside = files.find(path, detail=True)
            found = {name: inside[name] for name in inside if name.endswith(ending)}
        else:
            found = {path: info}
    return [_remote(scheme, name, info) for name, info in found.items() if info["type"] == "file"]


def _remote(scheme: str, name: str, info: dict[str, Any]) -> Blob:
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    return Blob(f"{scheme}://{name}", info["size"], stamp)


def read(path: str, start: int, size: int) -> bytes:
    """So many bytes of a file from `start` on, fewer where it ends before.

    Args:
      path: of the file or object.
      start: byte.
      size: bytes.

    Raises:
      OSError: it cannot be read.
    """
    if not places.scheme(path):
        with waiting_for(path), open(path, "rb", 0) as file:
            return os.pread(file.fileno(), size, start)
    scheme, key = places.split("a file", path)
    files = _file_system(scheme, os.getpid())
    from fsspec.asyn import sync  # which the file system has brought

    with places.translated(path):
        part = {"start": start, "end": start + size}
        try:
            return sync(files.loop, files._cat_file, key, **part, timeout=_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"no answer in {_SECONDS:.0f} s") from error


@functools.cache
def _file_system(scheme: str, _: int) -> Any:
    """One for all threads of a process: each that is made asks for credentials."""
    return places.filesystem(scheme)


def name(path: str) -> str:
    """The last part of a path or an address."""
    return pathlib.PurePosixPath(path).name
