"""Batches of annotated images, in an order and with a chance that seed and step alone decide.

B images of a batch, b this host's share of them, N images of the set

A batch has b rows of each value of `framing.onto_canvas`, and `index` and `epoch`, int32 (b,). An
evaluation batch has a `mask`, bool (b,), in place of the epoch: False on padding.
"""

import collections
import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax import mesh as meshes
from moco_jax.data import loader, pipeline, transfer, workers
from moco_jax.data.loader import Batch, Loaded, Rows
from moco_jax.data.prefetch import Prefetcher
from moco_jax.detection.annotated import AnnotatedSet, nothing
from moco_jax.detection.buckets import Buckets
from moco_jax.detection.framing import Drawn, Framing, draw, onto_canvas
from moco_jax.errors import BadImage, InputError

_AHEAD = 2  # batches in work at a time, so that no thread waits for the slowest of a batch
Example = dict[str, np.ndarray]
Load = Callable[[int, int], tuple[Loaded, Example]]
Put = Callable[[Batch], Batch]


def train_batches(
    source: AnnotatedSet,
    framing: Framing,
    data: ConfigDict,
    seed: int,
    start_step: int = 0,
    *,
    host: int = 0,
    hosts: int = 1,
    put: Put | None = None,
) -> Prefetcher:
    """The endless stream of training batches from `start_step` on.

    Sample g = step * B + i is image `sample_order(seed, g // N, N)[g % N]`, its size and mirror
    are drawn from (seed, epoch, index): as in `pipeline.train_batches`, whatever the hosts and
    threads, and wherever the stream starts. With several canvases a batch has images of one, and
    this order is that of the canvas's own images; see `buckets.Buckets.rows`. An image that cannot
    be read gives way to the next.

    Args:
      source: images, each with an object (`for_training`).
      framing: how they come onto canvases.
      data: `config.data`: batch_size, threads, prefetch, max_pixels, max_bad_share.
      seed: at least 0.
      start_step: first step to give; its cost does not depend on it.
      host: this host; it makes rows [host * b, (host + 1) * b) of each batch.
      hosts: how many there are; divides B.
      put: transfers a batch to the devices, in the prefetching thread.

    Raises:
      InputError: B is not divisible by the hosts, an image has too many objects, or one of several
        canvases too few images.
      BadImage: from the iterator, when more than `data.max_bad_share` cannot be read.
    """
    framing.checked(source)
    buckets = Buckets.of(source, framing).checked(framing, data.batch_size)

    def one(index: int, epoch: int) -> Example:
        drawn, own = draw(framing, seed, epoch, index), framing.on(buckets.canvas[index])
        return _load(source, own, data.max_pixels, index, drawn)

    how = {"host": host, "hosts": hosts, "put": put}
    return train_stream(source, one, data, seed, start_step, buckets=buckets, **how)


def train_stream(
    source: Any,
    one: Callable[[int, int], Example],
    data: ConfigDict,
    seed: int,
    start_step: int = 0,
    *,
    buckets: Buckets | None = None,
    host: int = 0,
    hosts: int = 1,
    put: Put | None = None,
) -> Prefetcher:
    """Training batches of whatever `one` makes of an image's (index, epoch), or BadImage.

    For the other arguments and errors see `train_batches`; a source has a length and names, and
    all images come onto one canvas without `buckets`.
    """
    mine = pipeline.share(data.batch_size, host, hosts)
    buckets = buckets or Buckets.one(len(source))
    rows = buckets.rows(seed, start_step, data.batch_size, mine)
    load = functools.partial(_load_some, buckets, one)
    return Prefetcher(_batches(source, rows, load, data), data.prefetch, put)


def eval_batches(
    source: AnnotatedSet,
    framing: Framing,
    data: ConfigDict,
    *,
    host: int = 0,
    hosts: int = 1,
    put: Put | None = None,
) -> Prefetcher:
    """All images in order, once; the last batch of `data.eval_batch_size` is padded.

    With several canvases, so are the images of each. An image that cannot be read becomes padding.
    For the arguments see `train_batches`.

    Raises:
      InputError: the framing leaves something to chance, or see `train_batches`.
    """
    if len(framing.sides) > 1 or framing.mirrored:
        raise InputError(f"{framing}: expected one short side and no mirror for evaluation")
    framing.checked(source)
    drawn, buckets = Drawn(framing.sides[0], False), Buckets.of(source, framing)

    def one(index: int) -> Example:
        return _load(source, framing.on(buckets.canvas[index]), data.max_pixels, index, drawn)

    def empty(canvas: int) -> Example:
        return blank(framing.on(canvas), len(source.keypoint_names))

    how = {"host": host, "hosts": hosts, "put": put}
    return eval_stream(source, one, empty, data, buckets=buckets, **how)


def eval_stream(
    source: Any,
    one: Callable[[int], Example],
    blank: Callable[[int], Example],
    data: ConfigDict,
    *,
    buckets: Buckets | None = None,
    host: int = 0,
    hosts: int = 1,
    put: Put | None = None,
) -> Prefetcher:
    """Evaluation batches of what `one` makes of an image's index, `blank` of padding on a canvas.

    For the other arguments see `train_stream`.
    """
    mine = pipeline.share(data.eval_batch_size, host, hosts)
    rows = (buckets or Buckets.one(len(source))).eval_rows(data.eval_batch_size, mine)
    load = functools.partial(_load_one, one, blank)
    return Prefetcher(_masked(_batches(source, rows, load, data)), data.prefetch, put)


def sent(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What the streams need to give this process's share of global batches on a mesh."""
    put = functools.partial(transfer.put, meshes.batched(mesh))
    return {"host": jax.process_index(), "hosts": jax.process_count(), "put": put}


def entries_of(row: Example, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch over all hosts.

    Args:
      row: of an image.
      batch_size: B.
    """
    row = row | dict.fromkeys(("index", "epoch"), np.int32(0))
    shape = lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype)  # noqa: E731
    return {name: shape(value) for name, value in row.items()}


def _batches(source: Any, plan: Iterator[Rows], load: Load, data: ConfigDict) -> Iterator[Batch]:
    """Loads each batch, while the next ones are already in work."""
    tally, pending = loader.Tally(source, data.max_bad_share), collections.deque()
    threads, _ = workers.layout(data.threads, 1)
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for rows in plan:
            numbers = zip(rows.index.tolist(), rows.epoch.tolist())
            pending.append((rows, [pool.submit(load, *pair) for pair in numbers]))
            if len(pending) > _AHEAD:
                yield _finish(tally, *pending.popleft())
        while pending:
            yield _finish(tally, *pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(tally: loader.Tally, rows: Rows, jobs: list[concurrent.futures.Future]) -> Batch:
    loaded, examples = zip(*(job.result() for job in jobs))
    tally.count(list(loaded))
    batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    index = np.array([row.index for row in loaded], np.int32)
    return batch | {"index": index, "epoch": rows.epoch.astype(np.int32)}


def _masked(batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        del batch["epoch"]
        yield batch | {"mask": batch["index"] >= 0}


def _load_some(
    buckets: Buckets, one: Callable[[int, int], Example], index: int, epoch: int
) -> tuple[Loaded, Example]:
    """Training's image, or the next of its canvas that can be read."""
    unreadable = []
    for used in itertools.islice(buckets.after(index), loader.IN_A_ROW):
        try:
            example = one(used, epoch)
            return Loaded(used, -1, tuple(unreadable)), example
        except BadImage as error:
            unreadable.append(str(error))
    raise BadImage(f"{loader.IN_A_ROW} images in a row cannot be read, the first: {unreadable[0]}")


def _load_one(
    one: Callable[[int], Example], blank: Callable[[int], Example], index: int, canvas: int
) -> tuple[Loaded, Example]:
    """Evaluation's image; padding where there is none, or it cannot be read."""
    unreadable = ()
    if index >= 0:
        try:
            return Loaded(index, -1), one(index)
        except BadImage as error:
            unreadable = (str(error),)
    return Loaded(-1, -1, unreadable), blank(canvas)


def _load(
    source: AnnotatedSet, framing: Framing, max_pixels: int, index: int, drawn: Drawn
) -> Example:
    image = source.images[index]
    mirrored = source.mirrored_keypoints() if drawn.mirror else ()
    return onto_canvas(image.pixels(max_pixels), image, framing, drawn, mirrored)


def blank(framing: Framing, keypoints: int) -> Example:
    """A row of padding: an image of one black pixel without objects.

    Args:
      framing: of the other rows.
      keypoints: K of an object.
    """
    drawn = Drawn(framing.sides[0], False)
    return onto_canvas(np.zeros((1, 1, 3), np.uint8), nothing(keypoints), framing, drawn, ())
