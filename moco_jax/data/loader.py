"""Reads, decodes and crops the images of a batch in a pool of threads.

b this host's share of a batch, S output size, H height, W width
"""

import collections
import concurrent.futures
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import crop
from moco_jax.data.source import EncodedSource

log = logging.getLogger(__name__)

_CHUNK = 8  # images that a thread takes at a time
_IN_A_ROW = 64  # unreadable images, after which no substitute is looked for
_SAMPLE = 1000  # images to see before their unreadable share counts
_NAMED = 20  # unreadable images that the log names


class Rows(NamedTuple):
    """What a batch is to hold: index (-1 on padding) and epoch of its images, int64 (b,)."""

    index: np.ndarray
    epoch: np.ndarray


class Loaded(NamedTuple):
    """What became of one row: index and label of its image (-1: none), and what was unreadable."""

    index: int
    label: int
    unreadable: tuple[str, ...] = ()


# (index, epoch, where the pixels go) -> what came of it
Load = Callable[[int, int, np.ndarray], Loaded]
Batch = dict[str, Any]


def batch(image: np.ndarray, index: np.ndarray, epoch: np.ndarray, label: np.ndarray) -> Batch:
    """The dict that the step takes: `image` as it is, the others (b,) as int32."""
    numbers = {"index": index, "epoch": epoch, "label": label}
    return {"image": image} | {key: value.astype(np.int32) for key, value in numbers.items()}


def load_batches(
    source: EncodedSource, plan: Iterator[Rows], load: Load, shape: Sequence[int], data: ConfigDict
) -> Iterator[Batch]:
    """Loads each batch of `plan`, while the pool already has the next one in hand.

    Args:
      source: What is loaded.
      plan: The batches' rows.
      load: Loads one row.
      shape: Of one row's pixels.
      data: `config.data`.

    Yields:
      Batches whose image is uint8 (b, *shape).

    Raises:
      BadImage: more than `data.max_bad_share` of the images cannot be read, or all of a batch.
    """
    threads = data.threads or _cores()
    tally = _Tally(source, data.max_bad_share)
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending = collections.deque()
    try:
        for rows in plan:
            pixels = np.zeros((len(rows.index), *shape), np.uint8)
            pending.append((rows, pixels, _start(pool, threads, load, rows, pixels)))
            if len(pending) > 1:
                yield _finish(tally, *pending.popleft())
        while pending:
            yield _finish(tally, *pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def views_loader(source: EncodedSource, seed: int, regions: Sequence[crop.Region]) -> Load:
    """Loads random views, uint8 (views, S, S, 3), of an image or of the next that can be read."""
    return functools.partial(_load_views, source, seed, regions)


def center_loader(source: EncodedSource, share: float) -> Load:
    """Loads evaluation's view, uint8 (S, S, 3); an image that cannot be read becomes padding."""
    return functools.partial(_load_center, source, share)


def read(source: EncodedSource, index: int) -> tuple[np.ndarray, int]:
    """Image, uint8 (H, W, 3), and label of `source[index]`; a BadImage error names the image."""
    try:
        encoded, label = source.read(index)
        return crop.decode(encoded), label
    except (crop.BadImage, OSError) as error:
        raise crop.BadImage(f"{source.item_name(index)}: {error}") from error


def _load_views(
    source: EncodedSource,
    seed: int,
    regions: Sequence[crop.Region],
    index: int,
    epoch: int,
    out: np.ndarray,
) -> Loaded:
    unreadable = []
    for used in (i % len(source) for i in range(index, index + _IN_A_ROW)):
        try:
            image, label = read(source, used)
        except crop.BadImage as error:
            unreadable.append(str(error))
            continue
        rng = crop.generator(seed, epoch, used)
        out[:] = crop.random_views(image, rng, regions, out.shape[1])
        return Loaded(used, label, tuple(unreadable))
    raise crop.BadImage(f"{_IN_A_ROW} images in a row cannot be read, the first: {unreadable[0]}")


def _load_center(
    source: EncodedSource, share: float, index: int, _: int, out: np.ndarray
) -> Loaded:
    if index < 0:
        return Loaded(-1, -1)
    try:
        image, label = read(source, index)
    except crop.BadImage as error:
        return Loaded(-1, -1, (str(error),))
    out[:] = crop.center_crop(image, len(out), share)
    return Loaded(index, label)


def _start(
    pool: concurrent.futures.Executor, threads: int, load: Load, rows: Rows, pixels: np.ndarray
) -> list[concurrent.futures.Future]:
    """Hands the rows of a batch to the pool, some at a time."""
    chunk = max(1, min(_CHUNK, len(pixels) // threads))
    parts = (slice(start, start + chunk) for start in range(0, len(pixels), chunk))
    return [
        pool.submit(_load_part, load, rows.index[part], rows.epoch[part], pixels[part])
        for part in parts
    ]


def _load_part(
    load: Load, index: np.ndarray, epoch: np.ndarray, pixels: np.ndarray
) -> list[Loaded]:
    return list(map(load, index.tolist(), epoch.tolist(), pixels))


def _finish(
    tally: "_Tally", rows: Rows, pixels: np.ndarray, parts: list[concurrent.futures.Future]
) -> Batch:
    """Waits for a batch."""
    loaded = [row for part in parts for row in part.result()]
    tally.count(loaded)
    index, label = (np.array(column) for column in list(zip(*loaded))[:2])
    return batch(pixels, index, rows.epoch, label)


class _Tally:
    """Counts and names unreadable images, and ends the stream when there are too many."""

    def __init__(self, source: EncodedSource, max_share: float) -> None:
        self._source, self._max_share = source, max_share
        self._seen, self._unreadable = 0, 0
        self._named: set[str] = set()

    def count(self, loaded: list[Loaded]) -> None:
        """Takes in the rows of one batch; batches come in the stream's order."""
        errors = [error for row in loaded for error in row.unreadable]
        self._seen += len(errors) + sum(row.index >= 0 for row in loaded)
        self._unreadable += len(errors)
        self._name(errors)
        wanted = [row for row in loaded if row.index >= 0 or row.unreadable]
        none_good = len(wanted) >= _CHUNK and all(row.unreadable for row in wanted)
        enough = self._seen >= min(_SAMPLE, len(self._source))
        if none_good or (enough and self._unreadable > self._max_share * self._seen):
            raise crop.BadImage(
                f"{self._unreadable} of {self._seen} images of {self._source.name} cannot be read, "
                f"more than data.max_bad_share={self._max_share}; one of them: {min(self._named)}"
            )

    def _name(self, errors: list[str]) -> None:
        for error in errors:
            if error not in self._named and len(self._named) < _NAMED:
                self._named.add(error)
                last = " (no others will be named)" if len(self._named) == _NAMED else ""
                log.warning("skipped an image that cannot be read: %s%s", error, last)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
