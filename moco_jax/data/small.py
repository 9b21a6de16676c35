"""Small encoded images of one size, decoded once: then they go the arrays' way, without the host.

N number of images, H height, W width
"""

import logging
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import decoding, loader
from moco_jax.data.source import ArraySource, EncodedSource, Splits
from moco_jax.errors import BadImage

log = logging.getLogger(__name__)

SIDE = 64  # pixels; larger images are better cropped before they are sent
_PROBES = 16
_BATCH = 1024  # images decoded together


def as_arrays(splits: Splits, data: ConfigDict) -> Splits:
    """Both parts as arrays, where the images are small, of one size, and fit `data.array_gb`.

    The parts stay as they are where they are arrays already, and where any image cannot be read.

    Args:
      splits: of the source.
      data: `config.data`.
    """
    parts = [part for part in splits if part]
    if any(isinstance(part, ArraySource) for part in parts):
        return splits
    sizes = {size for part in parts for size in _probe(part, data.max_pixels)}
    if len(sizes) != 1 or max(size := sizes.pop()) > SIDE:
        return splits
    count = sum(map(len, parts))
    if count * size[0] * size[1] * 3 > data.array_gb * 1e9:
        return splits
    log.info("Decoding %d images of %d x %d pixels into memory", count, *size[::-1])
    try:
        arrays = [_decoded(part, size, data) for part in parts]
    except BadImage as error:
        log.warning("the images stay encoded: %s", error)
        return splits
    return Splits(*arrays, *[None] * (2 - len(arrays)))


def _probe(source: EncodedSource, max_pixels: int) -> Iterator[tuple[int, int]]:
    """(H, W) of some images, from their headers; (0, 0) for one that cannot be read."""
    for index in np.linspace(0, len(source) - 1, _PROBES, dtype=int).tolist():
        try:
            header = decoding.read_header(loader.fetch(source, index)[0], max_pixels)
            yield header.height, header.width
        except BadImage:
            yield 0, 0


def _decoded(source: EncodedSource, size: tuple[int, int], data: ConfigDict) -> ArraySource:
    """All images of a source; BadImage when one cannot be read or has another size."""
    images = np.empty((len(source), *size, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    load = loader.whole_loader(source, data.max_pixels)
    shape = (min(_BATCH, len(source)), *size, 3)
    for batch in loader.load_batches(source, _plan(len(source), shape[0]), load, [shape], data):
        kept = batch["index"] >= 0
        images[batch["index"][kept]] = batch["crops"][0][kept]
        labels[batch["index"][kept]] = batch["label"][kept]
    return ArraySource(
        source.name, images, labels if source.labelled else None, source.class_names,
        name_of=source.item_name, understood=source.understood,
    )  # fmt: skip


def _plan(n: int, b: int) -> Iterator[loader.Rows]:
    """Rows of all n images in order, the last ones padded."""
    index = np.arange(-(-n // b) * b)
    index[n:] = -1
    for rows in index.reshape(-1, b):
        yield loader.Rows(rows, np.zeros_like(rows))
