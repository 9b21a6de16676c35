"""From a source to host batches, in an order that seed and step alone decide.

B global batch, b this host's share of it, N images of the source, V views, S size of a view,
H height, W width, C channels, F features

A batch is a dict of `index`, `epoch` and `label`, int32 (b,), and one of
  `crops`: the views of encoded images, cropped here: a tuple of V arrays uint8 (b, S, S, 3);
    evaluation has one view, the centre;
  `image`: whole images of an array, to be cropped on the device: uint8 (b, H, W, C);
  `features`: of images, in place of them: float32 (b, F).
An evaluation batch has a `mask`, bool (b,), in place of the epoch: False on padding, where index
is -1. Label is -1 where there is none. Without `pixels` the last two are left out: the array lies
on the devices already.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import deep_pixels, host_crop, loader, small, subset
from moco_jax.data.loader import Batch, Rows
from moco_jax.data.patience import Patience
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import ArraySource, Source, Splits, open_source
from moco_jax.errors import BadImage, InputError, LateImage

_PROBES = 16  # images that `check` reads
_STATS_IMAGES = 2000  # images that `channel_stats` measures
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, std
Put = Callable[[Batch], Batch]


def open_data(data: ConfigDict) -> Splits:
    """Opens `data.source`; small encoded images of one size become arrays.

    Raises:
      InputError: from `open_source`, or `data.levels` or `data.read_seconds` is no such number.
      StorageError: a folder gives no answer for `data.read_seconds`.
    """
    if not 0 <= data.levels <= deep_pixels.WHITE:
        raise InputError(f"data.levels={data.levels}: expected 0 to {deep_pixels.WHITE}")
    if not data.read_seconds >= 0:
        raise InputError(f"data.read_seconds={data.read_seconds}: expected 0 (no limit) or more")
    how = data.cache_dir, data.image_column, data.label_column, data.read_seconds
    splits = open_source(data.source, *how)
    if data.test_share:
        splits = subset.with_test(splits, data.test_share, data.test_seed)
    return small.as_arrays(Splits(*(part and _as_told(part, data) for part in splits)), data)


def _as_told(source: Source, data: ConfigDict) -> Source:
    """An encoded source with the options that say how it is read."""
    if isinstance(source, ArraySource):
        return source
    if data.read_seconds:
        read = Patience(source.read, source.item_name, data.read_seconds)
        source = dataclasses.replace(source, read=read)
    if not data.levels:
        few = evenly(len(source), _PROBES).tolist()
        used = loader.deep_values(source, few, data.max_pixels)
        deep_pixels.warn_about_levels(source.name, list(used))
    return dataclasses.replace(source, levels=data.levels)


def copied(batch: Batch) -> Batch:
    """The batch, its crops in memory of their own."""
    return {
        key: tuple(view.copy() for view in value) if key == "crops" else value
        for key, value in batch.items()
    }


def train_batches(
    source: Source,
    data: ConfigDict,
    seed: int,
    start_step: int = 0,
    *,
    views: Sequence[ConfigDict] = (),
    host: int = 0,
    hosts: int = 1,
    put: Put = copied,
    pixels: bool = True,
) -> Prefetcher:
    """The endless stream of training batches from `start_step` on.

    Sample g = step * B + i of the stream is image `sample_order(seed, g // N, N)[g % N]`, and its
    crops are drawn from (seed, epoch, index): whatever the hosts and threads, and wherever the
    stream starts. An image that cannot be read gives way to the next one that can.

    Args:
      source: The training images.
      data: `config.data`.
      seed: Of the order and the crops, at least 0.
      start_step: First step to give; its cost does not depend on it.
      views: Recipes of the V views that are cropped from an encoded image; (): `data.view1` and
        `data.view2`.
      host: This host; it makes rows [host * b, (host + 1) * b) of each batch.
      hosts: Number of hosts; divides B.
      put: Transfers a batch to the devices, in the prefetching thread. When it returns, the
        batch's crops have been read: their memory is used again.
      pixels: Whether the batches of an array source have its images or features.

    Raises:
      InputError: B is not divisible by the hosts.
      BadImage: from the iterator, when more than `data.max_bad_share` cannot be read.
    """
    mine = share(data.batch_size, host, hosts)
    rows = train_rows(len(source), seed, start_step, data.batch_size, mine)
    if isinstance(source, ArraySource):
        return Prefetcher(_from_array(source, rows, pixels), data.prefetch, put)
    views = views or (data.view1, data.view2)
    regions = [host_crop.Region(view.crop_area, view.crop_ratio) for view in views]
    load = loader.views_loader(source, seed, regions, data.max_pixels)
    sizes = [view.size or data.image_size for view in views]
    shapes = [(mine.stop - mine.start, size, size, 3) for size in sizes]
    batches = loader.load_batches(source, rows, load, shapes, data)
    return Prefetcher(batches, data.prefetch, put)


def eval_batches(
    source: Source,
    data: ConfigDict,
    limit: int = 0,
    *,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    put: Put = copied,
    pixels: bool = True,
) -> Prefetcher:
    """All images in order, or `limit` evenly spaced ones, once; the last batch is padded.

    The first `start` of them are left out. An image that cannot be read becomes padding. For the
    other arguments see `train_batches`.

    Raises:
      InputError: `data.eval_crop_share` is not in (0, 1].
    """
    if not 0 < data.eval_crop_share <= 1:
        raise InputError(f"data.eval_crop_share={data.eval_crop_share}: expected in (0, 1]")
    mine = share(data.eval_batch_size, host, hosts)
    rows = eval_rows(evenly(len(source), limit)[start:], data.eval_batch_size, mine)
    if isinstance(source, ArraySource):
        return Prefetcher(_masked(_from_array(source, rows, pixels)), data.prefetch, put)
    load = loader.center_loader(source, data.eval_crop_share, data.max_pixels)
    shape = (mine.stop - mine.start, data.image_size, data.image_size, 3)
    batches = loader.load_batches(source, rows, load, [shape], data)
    return Prefetcher(_masked(batches), data.prefetch, put)


def sample_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of the images in one epoch: a permutation, int64 (n,).

    Args:
      seed: of the run.
      epoch: from 0.
      n: images.
    """
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def check(source: Source, data: ConfigDict, batch_size: int = 1) -> None:
    """Refuses a source that cannot give one batch, before anything is compiled.

    Args:
      source: training images.
      data: `config.data`.
      batch_size: images over all devices.

    Raises:
      InputError: fewer images than a batch.
      BadImage: none of 16 evenly spaced images can be read.
      StorageError: so it is, and most of them did not come in time.
    """
    check_size(source, batch_size)
    if isinstance(source, ArraySource):
        return
    errors = []
    for index in evenly(len(source), _PROBES).tolist():
        try:
            loader.read(source, index, data.max_pixels)
            return
        except BadImage as error:
            errors.append(error)
    late = sum(isinstance(error, LateImage) for error in errors)
    text = f"none of {len(errors)} images of {source.name} can be read: {errors[0]}"
    raise loader.too_many(text, len(errors), late)


def check_size(source: Source, batch_size: int) -> None:
    """Raises InputError where a source has fewer images than a batch.

    Args:
      source: training images.
      batch_size: images over all devices.
    """
    if len(source) < batch_size:
        raise InputError(
            f"{source.name} has {len(source)} images, fewer than data.batch_size={batch_size}; the "
            f"largest batch is {len(source)}"
        )


def channel_stats(source: Source, data: ConfigDict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1]: two tuples of C.

    `data.mean` and `data.std` where given; else ImageNet's for three channels; else measured, on
    2,000 evenly spaced images.

    Args:
      source: training images.
      data: `config.data`.

    Raises:
      InputError: one of the two is given alone, or not C numbers; a std that is not above 0.
    """
    if data.mean or data.std:
        return _given(source, tuple(data.mean), tuple(data.std))
    if source.channels == 3:
        return IMAGENET
    pixels = source.images[evenly(len(source), _STATS_IMAGES)].astype(np.float64) / 255
    # The floor is for a channel that never changes: it would be divided by 0.
    mean, std = pixels.mean((0, 1, 2)), np.maximum(pixels.std((0, 1, 2)), 1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def evenly(n: int, limit: int) -> np.ndarray:
    """`limit` evenly spaced indices below n; all n where `limit` is 0 or more than n."""
    count = min(limit or n, n)
    return np.arange(count) * n // count


def share(batch_size: int, host: int, hosts: int) -> slice:
    """This host's rows of `batch_size`; InputError where the `hosts` do not divide it."""
    if batch_size % hosts:
        near = max(1, round(batch_size / hosts)) * hosts
        raise InputError(f"a batch of {batch_size} is not divisible by {hosts} hosts; {near} is")
    b = batch_size // hosts
    return slice(host * b, (host + 1) * b)


def train_rows(n: int, seed: int, step: int, batch_size: int, mine: slice) -> Iterator[Rows]:
    """A host's rows of each training batch of n images from a step on; see `train_batches`."""
    order = functools.lru_cache(maxsize=2)(lambda epoch: sample_order(seed, epoch, n))
    while True:
        epoch, position = np.divmod(step * batch_size + np.arange(batch_size)[mine], n)
        index = np.empty_like(position)
        for e in np.unique(epoch).tolist():
            index[epoch == e] = order(e)[position[epoch == e]]
        yield Rows(index, epoch)
        step += 1


def eval_rows(index: np.ndarray, batch_size: int, mine: slice) -> Iterator[Rows]:
    """The rows `mine` of each batch of `batch_size`, images `index` in turn; then padding, -1."""
    for start in range(0, len(index), batch_size):
        rows = np.full(batch_size, -1)
        rows[: len(index) - start] = index[start : start + batch_size]
        yield Rows(rows[mine], np.zeros_like(rows[mine]))


def _from_array(source: ArraySource, plan: Iterator[Rows], pixels: bool) -> Iterator[Batch]:
    labels = np.full(len(source), -1) if source.labels is None else source.labels
    for index, epoch in plan:
        label = np.where(index >= 0, labels[index], -1)
        values = {source.entry: source.images[index]} if pixels else {}
        yield values | loader.numbers(index, epoch, label)


def _given(
    source: Source, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not len(mean) == len(std) == source.channels:
        raise InputError(
            f"data.mean={mean}, data.std={std}: expected {source.channels} numbers in each, one "
            f"for each channel of {source.name}"
        )
    if min(std) <= 0:
        raise InputError(f"data.std={std}: expected numbers above 0")
    return mean, std


def _masked(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Evaluation's form: without the epoch, with a mask."""
    with contextlib.closing(batches):
        for batch in batches:
            del batch["epoch"]
            yield batch | {"mask": batch["index"] >= 0}
