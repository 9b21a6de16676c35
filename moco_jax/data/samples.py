"""Where each sample of many shards is: asked of them once, then kept in a file of the caches.

N number of samples
"""

import dataclasses
import itertools
import logging
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from moco_jax import places
from moco_jax.data import blobs, packed, summary
from moco_jax.data.blobs import Blob
from moco_jax.data.columns import choose_label
from moco_jax.data.index import TICK
from moco_jax.data.labels import class_numbers
from moco_jax.data.patience import for_each
from moco_jax.data.shard import CLASS, JSON, UNREADABLE, Shard, Wanted, read_shard
from moco_jax.data.summary import LeftOut
from moco_jax.errors import BadImage

log = logging.getLogger(__name__)

_VERSION = 1  # of the file: another one's is made anew
_READERS = 64  # shards at a time: of a bucket, reading headers is waiting
_SAID = 30.0  # seconds between lines that say how far it is


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples of shards, in the order of the shards' paths.

    Attributes:
      shards: their paths.
      shard: int32 (N,), in which each sample is.
      offset: int64 (N,), where its image begins there, bytes.
      size: int64 (N,), bytes of its image.
      ends: int64 (N,), where each image's name ends in `names`.
      names: uint8, one after the other.
      column: where labels come from; "": there are none.
      labels: int32 (N,), -1 where there is none; None without a column.
      class_names: () where classes have only numbers.
      kinds: the ends of the images' names, each with how many there are.
      left_out: what was left out and why.
      notes: what else is to be said.
      file: where this is kept, with its stamp; None where it is not.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    column: str = ""
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    file: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.shard)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the file as well, rather than have a copy each.
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return (_reopen, self.file) if self.file else (type(self), tuple(fields))

    def name(self, i: int) -> str:
        """Name of image i within its shard."""
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(self.names[start : self.ends[i]].tobytes())

    def path(self, i: int) -> str:
        """Path of the shard that image i is in."""
        return self.shards[self.shard[i]]

    def read(self, i: int) -> bytes:
        """The encoded image i.

        Raises:
          BadImage: the shard ends before it.
          OSError: it cannot be read.
        """
        size = int(self.size[i])
        content = blobs.read(self.path(i), int(self.offset[i]), size) if size else b""
        if len(content) != size:
            raise BadImage(f"{self.path(i)} has become shorter")
        return content

    @classmethod
    def of(cls, what: str, found: Sequence[Blob], shards: Iterable[Shard], label: str) -> Self:
        """Samples of shards that were read; `label` is `data.label_column`.

        Args:
          what: the source, for an error.
          found: the shards' files, in order.
          shards: what was read of each.
          label: `data.label_column`.
        """
        shards = list(shards)
        left_out = LeftOut()
        for shard in shards:
            left_out.add(shard.left_out)
        names = list(itertools.chain.from_iterable(shard.names for shard in shards))
        places_of = list(itertools.chain.from_iterable(shard.places for shard in shards))
        counts = [len(shard.names) for shard in shards]
        offset, size = np.array(places_of, np.int64).reshape(-1, 2).T
        encoded = [os.fsencode(name) for name in names]
        column, labels, class_names = _labels(what, shards, counts, label, left_out)
        return cls(
            shards=tuple(blob.path for blob in found),
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            offset=offset,
            size=size,
            ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
            names=np.frombuffer(b"".join(encoded), np.uint8),
            column=column,
            labels=labels,
            class_names=class_names,
            kinds=summary.kinds_of(names),
            left_out=left_out,
            notes=_notes(names, left_out),
        )


def _labels(
    what: str, shards: Sequence[Shard], counts: Sequence[int], wanted: str, left_out: LeftOut
) -> tuple[str, np.ndarray | None, tuple[str, ...]]:
    """The column of labels, chosen; int32 (N,), or None without one; and names of classes."""
    columns = sorted({column for shard in shards for column in shard.columns})
    found = [CLASS] if CLASS in columns else columns
    kinds = [reason[1:].removesuffix(" files") for reason in left_out if reason[0] == "."]
    column = choose_label(what, columns or kinds, found, wanted)
    if not column:
        return "", None, ()
    left_out.pop(f".{JSON if column.startswith(f'{JSON}.') else column} files", None)
    values = np.full(sum(counts), None, object)
    for start, shard in zip(np.cumsum([0, *counts]).tolist(), shards):
        for i, value in shard.columns.get(column, {}).items():
            values[start + i] = value
    numbers, names = class_numbers(f"{what}: {column}", _plain(values, column))
    return column, numbers, names


def _plain(values: np.ndarray, column: str) -> np.ndarray:
    """Labels as they are meant: in a text file, numbers are text as well."""
    texts = [value for value in values.tolist() if value is not None]
    if column.startswith(f"{JSON}.") or not all(re.fullmatch(r"-?\d+|", text) for text in texts):
        return values
    return np.array([int(value) if value else -1 for value in values.tolist()])


def _notes(names: Sequence[str], left_out: LeftOut) -> tuple[str, ...]:
    """What is to be said beside what is left out."""
    notes = []
    if UNREADABLE in left_out:
        count, first = left_out.pop(UNREADABLE)
        notes.append(f"no label where it cannot be read: {count:,} ({first})")
    hashes = np.array([hash(name) for name in names], np.int64)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    if len(several := first[counts > 1]):
        notes.append(f"{len(several):,} names that several shards have, each an image of its own "
                     f"({names[several.min()]})")  # fmt: skip
    return tuple(notes)


def open_samples(what: str, found: Sequence[Blob], wanted: Wanted, cache_dir: str) -> Samples:
    """The samples of shards, from the file that is kept or by reading the shards' headers.

    Args:
      what: what errors and logs call them.
      found: the shards; other sizes or stamps than those of the file mean that it is made anew.
      wanted: which files of a sample are meant.
      cache_dir: see `packed.cache_file`.

    Raises:
      InputError: of `read_shard`, or labels that are none.
      StorageError: a shard cannot be read, again and again.
    """
    key = repr(([blob.path for blob in found], wanted))
    file = packed.cache_file(cache_dir, pathlib.PurePath(found[0].path).stem, key, "samples")
    try:
        known, blobs_then = _open(file)
        if blobs_then == list(map(list, found)):
            return known
    except (OSError, ValueError, KeyError):
        pass
    begin = time.time_ns()
    samples = Samples.of(what, found, _read_all(what, found, wanted), wanted.label)
    return _save(what, samples, found, begin, file)


def _read_all(what: str, found: Sequence[Blob], wanted: Wanted) -> list[Shard]:
    total = sum(blob.size for blob in found)
    log.info("Reading the headers of %s: %d shards, %.1f GB ...", what, len(found), total / 1e9)
    done, said = [], [time.monotonic()]

    def read(blob: Blob) -> Shard:
        shard = read_shard(blob, wanted)
        done.append(blob)
        if time.monotonic() > said[-1] + _SAID:
            said.append(time.monotonic())
            log.info("  %d of %d shards", len(done), len(found))
        return shard

    return for_each(read, found, _READERS)


_ARRAYS = ("shard", "offset", "size", "ends", "names", "labels")


def _save(
    what: str, samples: Samples, found: Sequence[Blob], begin: int, file: pathlib.Path
) -> Samples:
    """Keeps samples in a file, unless a shard has just changed; as on file where possible."""
    if any(not places.scheme(path) and int(stamp) > begin - TICK for path, _, stamp in found):
        log.info("%s: a shard has just changed; where its samples are is not kept", what)
        return samples
    fields = {f.name: getattr(samples, f.name) for f in dataclasses.fields(samples)}
    arrays = {name: fields.pop(name) for name in _ARRAYS}
    del fields["file"]
    try:
        packed.write(
            file, {"version": _VERSION, "blobs": found, **fields},
            {name: array for name, array in arrays.items() if array is not None},
        )  # fmt: skip
    except OSError as error:
        log.warning("%s: where its samples are is not kept: %s", what, error)
        return samples
    log.info("Where the samples are is kept in %s", file)
    return _open(file)[0]


def _open(file: pathlib.Path) -> tuple[Samples, list[list[Any]]]:
    """Maps a file of `_save` into memory; the second are its shards, as `Blob` has them."""
    head, arrays = packed.open_file(file, _VERSION)
    samples = Samples(
        **arrays,
        **{name: tuple(head[name]) for name in ("shards", "class_names", "notes")},
        column=head["column"],
        kinds=head["kinds"],
        left_out={reason: tuple(some) for reason, some in head["left_out"].items()},
        file=(str(file), head["stamp"]),
    )
    return samples, head["blobs"]


def _reopen(file: str, stamp: str) -> Samples:
    samples, _ = _open(pathlib.Path(file))
    packed.check_stamp(file, samples.file[1], stamp)
    return samples
