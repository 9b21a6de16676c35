"""A path in a bucket, with the part of pathlib that this house uses.

Its name has no `__fspath__`: what needs a file of the machine fails at once, where pathlib would
make a folder `gs:`. `fetched` gives such a file.
"""

import contextlib
import logging
import os
import pathlib
import posixpath
import tempfile
from collections.abc import Iterator
from typing import Any

from moco_jax import places

log = logging.getLogger(__name__)


class BucketPath:
    """gs://bucket/run or s3://bucket/run: an object, or what pathlib calls a folder.

    A folder is there as long as it has an object. An object appears whole or not at all, and at
    once to all. All methods raise what `places.translated` names; they do not try again for long:
    see `files.retrying`.
    """

    def __init__(self, address: str, option: str = "path"):
        """An address; `option` is named when it is none."""
        self._scheme, self._key = places.split(option, address)

    def __str__(self) -> str:
        return f"{self._scheme}://{self._key}"

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, rest: str) -> "BucketPath":
        return BucketPath(f"{self}/{rest}")

    name = property(lambda self: posixpath.basename(self._key))
    stem = property(lambda self: pathlib.PurePosixPath(self._key).stem)
    suffix = property(lambda self: pathlib.PurePosixPath(self._key).suffix)
    parent = property(lambda self: BucketPath(posixpath.dirname(str(self))))

    def with_name(self, name: str) -> "BucketPath":
        """Its neighbour of that name."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is an object of this name, or one inside."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is an object inside."""
        return self._kind() == "directory"

    def size(self) -> int:
        """Of an object, bytes."""
        return int(self._do("info")["size"])

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """An object, or its bytes from `start` up to `end`."""
        return self._do("cat_file", start=start, end=end)

    def read_text(self) -> str:
        """An object as text."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Makes or replaces an object."""
        self._do("pipe_file", content)

    def create(self, content: bytes) -> None:
        """Makes an object; FileExistsError where there is one, also one made this moment."""
        self._do("pipe_file", content, mode="create")

    def upload(self, file: pathlib.Path) -> None:
        """Makes or replaces an object, from a file of any size, or all objects of a folder."""
        for part in sorted(path for path in file.rglob("*") if path.is_file()):
            (self / part.relative_to(file).as_posix()).upload(part)
        if file.is_dir():
            return
        with places.translated(str(self)):
            places.filesystem(self._scheme).put_file(str(file), self._key)

    def download(self, file: pathlib.Path) -> None:
        """An object, or all inside, to a file or folder of the machine."""
        if self.is_file():
            return self._do("get_file", str(file))
        for name in self.walk():
            part = file / name
            part.parent.mkdir(parents=True, exist_ok=True)
            (self / name)._do("get_file", str(part))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes an object."""
        with contextlib.suppress(*(FileNotFoundError,) * missing_ok):
            self._do("rm_file")

    def rmtree(self) -> None:
        """Removes all objects inside."""
        for name in self.walk():
            (self / name).unlink(missing_ok=True)

    def rename(self, target: "BucketPath") -> None:
        """Moves an object, or all inside: copies, then removes."""
        if self.is_file():
            self._do("cp_file", target._key)
            return self.unlink(missing_ok=True)
        for name in self.walk():
            (self / name)._do("cp_file", (target / name)._key)
        self.rmtree()

    def walk(self) -> list[str]:
        """The names of all objects inside, at any depth, as they continue this address."""
        found = (name.strip("/") for name in self._do("find", detail=False))
        return sorted(name.removeprefix(f"{self._key}/") for name in found if name != self._key)

    def iterdir(self) -> Iterator["BucketPath"]:
        """What lies inside, one level deep."""
        for name in sorted({name.split("/")[0] for name in self.walk()}):
            yield self / name

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing, whatever `parents` and `exist_ok`: folders of a bucket need not be made."""

    def absolute(self) -> "BucketPath":
        """Itself."""
        return self

    resolve = expanduser = absolute

    def _kind(self) -> str | None:
        try:
            return self._do("info")["type"]
        except FileNotFoundError:
            return None

    def _do(self, method: str, *args: Any, **options: Any) -> Any:
        with places.translated(str(self)):
            return getattr(places.filesystem(self._scheme), method)(self._key, *args, **options)


class Growing:
    """A file that grows: a bucket gets all of it anew at each `flush`."""

    def __init__(self, path: BucketPath):
        self._path, self._content = path, bytearray()

    def write(self, content: bytes) -> int:
        """Keeps bytes for the next `flush`; returns their number."""
        self._content += content
        return len(content)

    def flush(self) -> None:
        """Writes the object; where the bucket is away, the next one will."""
        try:
            self._path.write_bytes(bytes(self._content))
        except places.BucketError as error:
            log.warning("%s is written later: %s", self._path, error)

    def close(self) -> None:
        """Writes the object a last time."""
        self.flush()


Place = pathlib.Path | BucketPath


def place(option: str, path: str | os.PathLike | BucketPath) -> Place:
    """The absolute path of a file or folder, of a file system or in a bucket; ~ is the home.

    Raises:
      InputError: it is an address of another kind; `option` is named.
      RuntimeError: the home is not known.
    """
    if isinstance(path, BucketPath):
        return path
    if places.scheme(path):
        return BucketPath(os.fspath(path), option)
    return pathlib.Path(path).expanduser().absolute()


@contextlib.contextmanager
def fetched(path: Place) -> Iterator[pathlib.Path]:
    """Within the context, a file or folder of the machine with what lies at `path`.

    That is `path` itself where it is not in a bucket.
    """
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="moco_jax-") as folder:
        path.download(pathlib.Path(folder) / path.name)
        yield pathlib.Path(folder) / path.name


@contextlib.contextmanager
def filled(path: Place) -> Iterator[pathlib.Path]:
    """Within the context, a file or folder of the machine to be made, which `path` then holds."""
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="moco_jax-") as folder:
        made = pathlib.Path(folder) / path.name
        yield made
        if made.exists():
            path.upload(made)
