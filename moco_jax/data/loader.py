"""Reads, decodes and crops the images of a batch, several at a time, and tells the bad ones.

b this host's share of a batch, V views, S size of a view, H height, W width
"""

import collections
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import decoding, host_crop, workers
from moco_jax.data.source import EncodedSource
from moco_jax.errors import BadImage, LateImage, StorageError
from moco_jax.files import is_trouble, retrying

log = logging.getLogger(__name__)

_AHEAD = 2  # batches in work at a time, so that no decoder waits for the slowest of a batch
_CHUNK = 32  # rows that a decoder takes at a time, at most
_SHARE = 4  # chunks of a batch that each decoder gets, at least, where there are enough rows
IN_A_ROW = 64  # unreadable images, after which no substitute is looked for
_SAMPLE = 1000  # images to see before their unreadable share counts
_FEW = 8  # images of which all may be unreadable without ending the stream
_NAMED = 20  # unreadable images that the log names


class Rows(NamedTuple):
    """What a batch is to hold: index (-1 on padding) and epoch of its images, int64 (b,)."""

    index: np.ndarray
    epoch: np.ndarray


class Loaded(NamedTuple):
    """What became of one row.

    Attributes:
      index: of its image; -1: none.
      label: of its image; -1: none.
      unreadable: the images that could not be read, each with why.
      late: how many of them because they did not come in time.
    """

    index: int
    label: int
    unreadable: tuple[str, ...] = ()
    late: int = 0


# (index, epoch, where the pixels go, an array for each view) -> what came of it
Load = Callable[[int, int, Sequence[np.ndarray]], Loaded]
Batch = dict[str, Any]


def numbers(index: np.ndarray, epoch: np.ndarray, label: np.ndarray) -> Batch:
    """What a batch holds beside its images: `index`, `epoch` and `label`, (b,), as int32."""
    columns = {"index": index, "epoch": epoch, "label": label}
    return {key: column.astype(np.int32) for key, column in columns.items()}


def load_batches(
    source: EncodedSource,
    plan: Iterator[Rows],
    load: Load,
    shapes: Sequence[Sequence[int]],
    data: ConfigDict,
) -> Iterator[Batch]:
    """Loads each batch of `plan`, while the next ones are already in work.

    Args:
      source: What is loaded.
      plan: The batches' rows.
      load: Loads one row.
      shapes: Of a batch's pixels, (b, S, S, 3) for each view.
      data: `config.data`.

    Yields:
      Batches whose `crops` are uint8 of these shapes, in buffers that the next batches overwrite:
      they are good until the generator goes on.

    Raises:
      BadImage: more than `data.max_bad_share` of the images cannot be read, or all of a batch.
      StorageError: so it is, and most of them did not come in time.
      WorkerError: a worker process ended.
    """
    threads, processes = workers.layout(data.threads, data.processes)
    size = shapes[0][0]
    chunk = max(1, min(_CHUNK, size // (_SHARE * threads)))
    tally = Tally(source, data.max_bad_share)
    pending = collections.deque()
    with contextlib.ExitStack() as stack:
        slots = [(_AHEAD + 1, *shape) for shape in shapes]
        crew = stack.enter_context(workers.start(load, slots, threads, processes))
        pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
        stack.callback(pool.shutdown, cancel_futures=True)
        for number, rows in enumerate(plan):
            slot = number % (_AHEAD + 1)
            parts = [slice(start, start + chunk) for start in range(0, size, chunk)]
            jobs = [pool.submit(crew.load, slot, p, rows.index[p], rows.epoch[p]) for p in parts]
            pending.append((rows, tuple(buffer[slot] for buffer in crew.buffers), jobs))
            if len(pending) > _AHEAD:
                yield _finish(tally, *pending.popleft())
        while pending:
            yield _finish(tally, *pending.popleft())


def too_many(text: str, unreadable: int, late: int) -> BadImage | StorageError:
    """The error `text` of `unreadable` images: the place's trouble, if most came too `late`."""
    if 2 * late > unreadable:
        return StorageError(f"{text}: the place that they are in is away or overloaded")
    return BadImage(text)


def views_loader(
    source: EncodedSource, seed: int, regions: Sequence[host_crop.Region], max_pixels: int
) -> Load:
    """Loads random views, uint8 (S, S, 3) each, of an image or of the next that can be read."""
    return functools.partial(_load_views, source, seed, regions, max_pixels)


def center_loader(source: EncodedSource, share: float, max_pixels: int) -> Load:
    """Loads evaluation's view, uint8 (S, S, 3); an image that cannot be read becomes padding."""
    return functools.partial(_load_center, source, share, max_pixels)


def whole_loader(source: EncodedSource, max_pixels: int) -> Load:
    """Loads whole images, uint8 (H, W, 3); one of another size counts as unreadable."""
    return functools.partial(_load_whole, source, max_pixels)


def read(source: EncodedSource, index: int, max_pixels: int) -> tuple[np.ndarray, int]:
    """Image, uint8 (H, W, 3), and label of `source[index]`.

    Raises:
      BadImage: it cannot be read; the message names it.
    """
    encoded, label = fetch(source, index)
    with _naming(source, index):
        header = decoding.read_header(encoded, max_pixels, source.levels)
        return decoding.decode(encoded, levels=header.levels), label


def deep_values(source: EncodedSource, index: Sequence[int], max_pixels: int) -> Iterator[int]:
    """The largest value of each image `source[index]` whose pixels have 16 bits; see `read`."""
    for i in index:
        with contextlib.suppress(BadImage):
            if (found := decoding.deep_value(fetch(source, i)[0], max_pixels)) is not None:
                yield found


def fetch(source: EncodedSource, index: int) -> tuple[bytes, int]:
    """The encoded bytes and label of `source[index]`, tried again in the machine's trouble.

    Raises:
      BadImage: it cannot be read; the message names it.
      StorageError: the machine is to blame, and remains so.
    """
    name = source.item_name(index)
    with _naming(source, index):
        return retrying(f"reading {name}", lambda: source.read(index), is_trouble)


@contextlib.contextmanager
def _naming(source: EncodedSource, index: int) -> Iterator[None]:
    """Makes an error that reading an image may bring a BadImage with the image's name."""
    try:
        yield
    except StorageError:
        raise  # not the image's fault
    except (BadImage, OSError) as error:
        kind = LateImage if isinstance(error, LateImage) else BadImage
        raise kind(f"{source.item_name(index)}: {error}") from error


def _load_views(
    source: EncodedSource,
    seed: int,
    regions: Sequence[host_crop.Region],
    max_pixels: int,
    index: int,
    epoch: int,
    out: Sequence[np.ndarray],
) -> Loaded:
    unreadable, late = [], 0
    for used in (i % len(source) for i in range(index, index + IN_A_ROW)):
        try:
            encoded, label = fetch(source, used)
            with _naming(source, used):
                header = decoding.read_header(encoded, max_pixels, source.levels)
                rng = host_crop.generator(seed, epoch, used)
                host_crop.random_views(encoded, header, rng, regions, out)
        except BadImage as error:
            unreadable.append(str(error))
            late += isinstance(error, LateImage)
        else:
            return Loaded(used, label, tuple(unreadable), late)
    text = f"{IN_A_ROW} images in a row cannot be read, the first: {unreadable[0]}"
    raise too_many(text, IN_A_ROW, late)


def _load_center(
    source: EncodedSource,
    share: float,
    max_pixels: int,
    index: int,
    _: int,
    out: Sequence[np.ndarray],
) -> Loaded:
    (view,) = out

    def fill(image: np.ndarray) -> None:
        view[:] = host_crop.center_crop(image, len(view), share)

    view[:] = 0
    return _load_one(source, max_pixels, index, fill)


def _load_whole(
    source: EncodedSource, max_pixels: int, index: int, _: int, out: Sequence[np.ndarray]
) -> Loaded:
    (whole,) = out

    def fill(image: np.ndarray) -> None:
        if image.shape != whole.shape:
            raise BadImage(f"{source.item_name(index)} has another size")
        whole[:] = image

    return _load_one(source, max_pixels, index, fill)


def _load_one(
    source: EncodedSource, max_pixels: int, index: int, fill: Callable[[np.ndarray], None]
) -> Loaded:
    """Reads an image and hands it to `fill`; padding and bad images have index and label -1."""
    if index < 0:
        return Loaded(-1, -1)
    try:
        image, label = read(source, index, max_pixels)
        fill(image)
    except BadImage as error:
        return Loaded(-1, -1, (str(error),), int(isinstance(error, LateImage)))
    return Loaded(index, label)


def _finish(
    tally: "Tally",
    rows: Rows,
    pixels: tuple[np.ndarray, ...],
    jobs: list[concurrent.futures.Future],
) -> Batch:
    """Waits for a batch."""
    loaded = [row for job in jobs for row in job.result()]
    tally.count(loaded)
    index, label = (np.array(column) for column in list(zip(*loaded))[:2])
    return {"crops": pixels} | numbers(index, rows.epoch, label)


class Tally:
    """Counts and names unreadable images, and ends the stream when there are too many."""

    def __init__(self, source: EncodedSource, max_share: float) -> None:
        self._source, self._max_share = source, max_share
        self._seen, self._unreadable, self._late = 0, 0, 0
        self._named: set[str] = set()
        self._first, self._several = "", False

    def count(self, loaded: list[Loaded]) -> None:
        """Takes in the rows of one batch; batches come in the stream's order."""
        errors = [error for row in loaded for error in row.unreadable]
        self._seen += len(errors) + sum(row.index >= 0 for row in loaded)
        self._unreadable += len(errors)
        self._late += sum(row.late for row in loaded)
        self._name(errors)
        self._first = self._first or next(iter(errors), "")
        self._several = self._several or any(error != self._first for error in errors)
        wanted = [row for row in loaded if row.index >= 0 or row.unreadable]
        none_good = len(wanted) >= _FEW and all(row.unreadable for row in wanted)
        # One bad image, however few there are, is no reason to stop.
        enough = self._seen >= min(_SAMPLE, len(self._source)) and self._several
        if none_good or (enough and self._unreadable > self._max_share * self._seen):
            text = (
                f"{self._unreadable} of {self._seen} images of {self._source.name} cannot be read, "
                f"more than data.max_bad_share={self._max_share}; one of them: {min(self._named)}"
            )
            raise too_many(text, self._unreadable, self._late)

    def _name(self, errors: list[str]) -> None:
        for error in errors:
            if error not in self._named and len(self._named) < _NAMED:
                self._named.add(error)
                last = " (no others will be named)" if len(self._named) == _NAMED else ""
                log.warning("skipped an image that cannot be read: %s%s", error, last)
