"""The two-view stream of `pipeline.train_batches`, ours and built with Grain.

b images of a batch, N images of the source, S output size
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import decoding, host_crop, loader, pipeline
from moco_jax.data.source import EncodedSource

try:
    import grain
except ImportError:
    sys.exit("this measures Grain, which is not installed here: pip install grain==0.2.18")

# (position in the stream, where the pixels go) -> the rest of its sample
Row = Callable[[int, np.ndarray], dict[str, np.ndarray]]

_sample_order = functools.lru_cache(maxsize=2)(pipeline.sample_order)


@contextlib.contextmanager
def stream(
    form: str, data: ConfigDict, start_step: int = 0, strict: bool = False
) -> Iterator[Iterator[loader.Batch]]:
    """The batches of a form, as 'ours processes 2': whose loader, of what kind, how many of them.

    Ours are 'threads' and 'processes'; Grain's are those of `grain_batches`.
    """
    source = pipeline.open_data(data).train
    maker, kind, number = form.split()
    if maker == "ours":
        processes = int(number) if kind == "processes" else 1
        data.update(threads=int(number), processes=processes)
        batches = pipeline.train_batches(source, data, 0, start_step, put=lambda batch: batch)
    else:
        batches = grain_batches(source, data, kind, int(number), start_step, strict)
    with contextlib.closing(batches):
        yield batches


def grain_batches(
    source: EncodedSource,
    data: ConfigDict,
    kind: str,
    number: int,
    start_step: int,
    strict: bool = False,
) -> grain.DatasetIterator:
    """Batches of `train_batches` with seed 0, and `unreadable`: the images passed over, str (b,).

    Grain's source is the stream's positions: a step is reached by arithmetic, and order and crops
    are ours, from the same random numbers. So `map`: `random_map` would only make others.

    Args:
      source: The training images.
      data: `config.data`.
      kind: Who makes them: `threads`, an image each, which Grain stacks; `whole`, threads that
        make a batch each, all rows in place; `processes`.
      number: Of them.
      start_step: First step to give.
      strict: An unreadable image is an error; no other is looked for.
    """
    b, size = data.batch_size, data.image_size
    row = functools.partial(_load_row, _loader(source, data, strict), len(source))
    if kind == "whole":
        steps = grain.MapDataset.range(start_step, sys.maxsize // b)
        whole = steps.map(functools.partial(_load_whole, row, (b, 2, size, size, 3)))
        return iter(whole.to_iter_dataset(grain.ReadOptions(number, number + data.prefetch)))
    positions = grain.MapDataset.range(start_step * b, sys.maxsize)
    samples = positions.map(functools.partial(_load_sample, row, (2, size, size, 3)))
    if kind == "processes":
        # Workers take slices of what stands before `to_iter_dataset`: of batches, so that the
        # order does not depend on how many there are.
        stacked = samples.batch(b)
        stacked.enable_shared_memory_output()  # spares a copy of each batch
        options = grain.MultiprocessingOptions(number, data.prefetch)
        return iter(stacked.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(options))
    ahead = grain.ReadOptions(number, 2 * b)  # in images; as many as our loader has in work
    stacked = samples.to_iter_dataset(ahead).batch(b)
    prefetch = grain.experimental.ThreadPrefetchIterDataset
    return iter(prefetch(stacked, prefetch_buffer_size=data.prefetch))


def _loader(source: EncodedSource, data: ConfigDict, strict: bool) -> loader.Load:
    regions = [
        host_crop.Region(view.crop_area, view.crop_ratio) for view in (data.view1, data.view2)
    ]
    if strict:
        return functools.partial(_load_strict, source, regions, data.max_pixels)
    return loader.views_loader(source, 0, regions, data.max_pixels)


def _load_strict(
    source: EncodedSource,
    regions: list[host_crop.Region],
    max_pixels: int,
    index: int,
    epoch: int,
    out: np.ndarray,
) -> loader.Loaded:
    encoded, label = source.read(index)
    header = decoding.read_header(encoded, max_pixels)
    host_crop.random_views(encoded, header, host_crop.generator(0, epoch, index), regions, out)
    return loader.Loaded(index, label)


def _load_row(
    load: loader.Load, n: int, position: int, out: np.ndarray
) -> dict[str, np.ndarray | np.int32]:
    """What a batch holds beside the pixels of one sample of the stream, which go to `out`."""
    epoch, at = divmod(position, n)
    loaded = load(int(_sample_order(0, epoch, n)[at]), epoch, out)
    numbers = {"index": loaded.index, "epoch": epoch, "label": loaded.label}
    # Leaves of one shape, for Grain stacks them: the names become one string.
    text = {"unreadable": np.array("\n".join(loaded.unreadable))}
    return {key: np.int32(number) for key, number in numbers.items()} | text


def _load_sample(row: Row, shape: tuple[int, ...], position: int) -> dict[str, np.ndarray]:
    out = np.empty(shape, np.uint8)
    return {"image": out} | row(position, out)


def _load_whole(row: Row, shape: tuple[int, ...], step: int) -> dict[str, np.ndarray]:
    out = np.empty(shape, np.uint8)
    rows = [row(step * len(out) + i, view) for i, view in enumerate(out)]
    return {"image": out} | {key: np.stack([r[key] for r in rows]) for key in rows[0]}
