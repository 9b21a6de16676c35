"""A WebDataset shard: a tar file in which all files of one key make a sample.

The key of a file is its path up to the first dot of its name, the rest is its kind: `n01/7.jpg` and
`n01/7.cls` are the image and the label of sample `n01/7`. Where everything lies is told by the
headers alone, so that of a shard in a bucket little more than these is read.
"""

import dataclasses
import functools
import json
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from moco_jax.data import blobs
from moco_jax.data.blobs import Blob
from moco_jax.data.columns import LABEL_NAMES
from moco_jax.data.formats import EXTENSIONS
from moco_jax.data.listing import HIDDEN, NO_FILE, SYSTEM, SYSTEM_FOLDERS
from moco_jax.data.summary import LeftOut
from moco_jax.errors import InputError
from moco_jax.files import is_trouble, retrying

CLASS, JSON = "cls", "json"  # kinds of files that hold labels
NO_TAR, CUT, AFTER = "files that are no tar", "damaged or cut short from there on", "after its end"
TWICE, NO_IMAGE = "names that a shard has twice", "samples without an image"
UNREADABLE = "labels that cannot be read"
_BLOCK, _LARGEST = 1 << 14, 1 << 22  # bytes read at a time
_TAIL = 1 << 20  # bytes after the end of a tar that are looked at
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class Wanted(NamedTuple):
    """Which files of a sample are meant.

    Attributes:
      images: kinds of images, 'jpg'; (): whatever is an image.
      label: 'cls' or another kind of text, or a field of the JSON, 'json.FIELD'; "": the usual.
    """

    images: tuple[str, ...] = ()
    label: str = ""


@dataclasses.dataclass
class Shard:
    """The samples with an image of one shard, in its order.

    Attributes:
      names: of the image's file, for each.
      places: where its bytes are: offset and size.
      columns: what may be labels: 'cls' or 'json.FIELD' -> number of the sample -> value.
      left_out: what is none of all this; kinds of other files, as '.txt files'.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    places: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    columns: dict[str, dict[int, Any]] = dataclasses.field(default_factory=dict)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)


def read_shard(blob: Blob, wanted: Wanted) -> Shard:
    """Reads the headers of a shard, and the labels.

    Args:
      blob: the tar file.
      wanted: which files of a sample are meant.

    Raises:
      InputError: it is compressed; a sample has several images, and nothing says which is meant.
      StorageError: it cannot be read, again and again.
    """
    shard, window = Shard(), _Window(blob)
    samples: dict[str, dict[str, Any]] = {}
    for member in _members(window, blob, shard.left_out):
        key, kind = _split(member, shard.left_out)
        if kind:
            _take(samples.setdefault(key, {}), kind, member, window, wanted, shard.left_out)
    for key, sample in samples.items():
        images = [kind for kind in sample if _is_image(kind, wanted)]
        if len(images) > 1:
            raise _several(blob, key, images)
        if not images:
            shard.left_out.note(NO_IMAGE, f"{blobs.name(blob.path)}/{key}")
            continue
        _add(shard, sample, images[0])
    return shard


def _several(blob: Blob, key: str, images: list[str]) -> InputError:
    return InputError(
        f"{blob.path}: sample {key!r} has {len(images)} images, {', '.join(images)}: choose one, "
        f"data.image_column={images[0]!r}. (A sample is all files of one name up to the first dot.)"
    )


def _add(shard: Shard, sample: dict[str, Any], image: str) -> None:
    """Adds the sample whose image is of that kind."""
    member = sample[image]
    for content in sample.values():
        if isinstance(content, dict):
            for column, value in content.items():
                shard.columns.setdefault(column, {})[len(shard.names)] = value
    shard.names.append(member.name)
    shard.places.append((member.offset_data, member.size))


def _split(member: tarfile.TarInfo, left_out: LeftOut) -> tuple[str, str]:
    """Key and kind of a file; the kind is "" where it is left out."""
    folder, slash, base = member.name.rpartition("/")
    key, _, kind = base.partition(".")
    if reason := "" if member.isdir() else _odd(member, kind):
        left_out.note(reason, member.name)
    return folder + slash + key, "" if reason or member.isdir() else kind.lower()


def _odd(member: tarfile.TarInfo, kind: str) -> str:
    """Why a member is left out; "" where it is not."""
    parts = member.name.lower().split("/")
    if any(part.startswith(".") and part != "." for part in parts):
        return HIDDEN
    if SYSTEM_FOLDERS.intersection(parts):
        return SYSTEM
    if not member.isreg() or member.issparse():
        return f"links, {NO_FILE}"
    return "" if kind else "files without an extension"


def _is_image(kind: str, wanted: Wanted) -> bool:
    image = f".{kind.rpartition('.')[2]}" in EXTENSIONS
    return image and (not wanted.images or kind in wanted.images)


def _take(
    sample: dict[str, Any],
    kind: str,
    member: tarfile.TarInfo,
    window: "_Window",
    wanted: Wanted,
    left_out: LeftOut,
) -> None:
    """Adds a file to its sample: of an image where it is, of labels what they are."""
    if kind in sample:
        left_out.note(TWICE, member.name)
    elif _is_image(kind, wanted):
        sample[kind] = member
    else:
        left_out.note(f".{kind} files", member.name)
        label_kind = JSON if wanted.label.startswith(f"{JSON}.") else wanted.label
        if kind in ((label_kind,) if wanted.label else (CLASS, JSON)):
            sample[kind] = _labels(kind, member, window, wanted, left_out)


def _labels(
    kind: str, member: tarfile.TarInfo, window: "_Window", wanted: Wanted, left_out: LeftOut
) -> dict[str, Any]:
    """What a file says that may be a label: column -> value."""
    content = window.at(member.offset_data, member.size)
    try:
        if kind != JSON or wanted.label == JSON:
            return {kind: content.decode().strip()}
        fields = json.loads(content)
        paths = [wanted.label.partition(".")[2]] if wanted.label else LABEL_NAMES
        found = {path: _field(fields, path) for path in paths}
        return {f"{JSON}.{path}": value for path, value in found.items() if value is not None}
    except (ValueError, RecursionError):
        left_out.note(UNREADABLE, member.name)
        return {}


def _field(fields: Any, path: str) -> Any:
    """`fields[a][b]` for 'a.b'; None where there is no such field."""
    step = lambda value, part: value.get(part) if isinstance(value, dict) else None  # noqa: E731
    return functools.reduce(step, path.split("."), fields)


def _members(window: "_Window", blob: Blob, left_out: LeftOut) -> Iterator[tarfile.TarInfo]:
    """The members of a tar that are wholly there."""
    name = blobs.name(blob.path)
    try:
        tar = tarfile.open(fileobj=window, mode="r:")  # noqa: SIM115, it holds nothing open
    except tarfile.TarError:
        start = window.at(0, 8)
        if packed := next((what for magic, what in _PACKED if start.startswith(magic)), None):
            raise InputError(
                f"{blob.path} is compressed ({packed}), and cannot be read in parts; expected a "
                "plain .tar: unpack it (images gain nothing by it)"
            ) from None
        left_out.note(NO_TAR, name)
        return
    while (member := _next(tar)) is not None:
        if member.offset_data + member.size > blob.size:
            break
        yield member
    rest = window.at(tar.offset, _TAIL)
    if member or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        left_out.note(f"shards {CUT}", name)
    elif rest.strip(b"\0"):
        left_out.note(f"shards with something {AFTER}", name)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError):
        return None


class _Window:
    """The file that `tarfile` reads: small parts where it jumps, larger ones where it goes on."""

    def __init__(self, blob: Blob):
        self._blob, self._at = blob, 0
        self._start, self._held, self._block = 0, b"", _BLOCK

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        self._at = at

    def read(self, size: int) -> bytes:
        found = self.at(self._at, size)
        self._at += len(found)
        return found

    def at(self, start: int, size: int) -> bytes:
        """Bytes from `start` on, fewer where the file ends."""
        size = min(size, self._blob.size - start)
        if size <= 0:
            return b""
        if not self._start <= start <= start + size <= self._start + len(self._held):
            self._fill(start, size)
        return self._held[start - self._start :][:size]

    def _fill(self, start: int, size: int) -> None:
        goes_on = self._start <= start <= self._start + len(self._held)
        self._block = min(2 * self._block, _LARGEST) if goes_on else _BLOCK
        path, size = self._blob.path, min(max(size, self._block), self._blob.size - start)
        read = functools.partial(blobs.read, path, start, size)
        self._start, self._held = start, retrying(f"reading {path}", read, is_trouble)
