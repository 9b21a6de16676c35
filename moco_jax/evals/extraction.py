"""Features of a data set: the one loop over evaluation batches.

B batch, N images, F features, S image size, C channels.
"""

import collections
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.data import augment, transfer
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import Source
from moco_jax.errors import InputError, NotFiniteError

Encode = Callable[[dict[str, jax.Array]], jax.Array]


class Features(NamedTuple):
    """Features of some images, in host memory.

    Attributes:
      features: float32 (N, F).
      labels: int32 (N,); -1 where there is none.
      index: int32 (N,), which images of the source they are.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray


def feature_batches(encode: Encode, batches: Prefetcher) -> Iterator[Features]:
    """Runs `encode` over padded batches and drops the padding.

    The device works on the next batch while one is fetched. With several processes, each gets the
    features of all.

    Args:
      encode: a batch on the device -> (B, F) float32.
      batches: evaluation batches on the device; closed at the end.

    Yields:
      The features of each batch, in the batches' order.

    Raises:
      NotFiniteError: there is a NaN or an infinity among them.
    """
    ahead = collections.deque()
    with batches as ready:
        for batch in ready:
            ahead.append((encode(batch), batch["label"], batch["index"], batch["mask"]))
            if len(ahead) > 1:
                yield _fetch(ahead.popleft())
        while ahead:
            yield _fetch(ahead.popleft())


def extract(encode: Encode, batches: Prefetcher) -> tuple[np.ndarray, np.ndarray]:
    """The features of all batches at once, and their labels.

    Args:
      encode: as for `feature_batches`.
      batches: as there.

    Returns:
      Features (N, F) float32 and labels (N,) int32.

    Raises:
      NotFiniteError: as there.
      InputError: there is no image.
    """
    parts = collections.deque(feature_batches(encode, batches))
    count = sum(len(part.index) for part in parts)
    if not count:
        raise InputError("there is no image to take features of")
    features = np.empty((count, parts[0].features.shape[1]), np.float32)
    labels, start = np.empty(count, np.int32), 0
    while parts:  # let go one by one: two copies of all features may be too much
        part = parts.popleft()
        rows = slice(start, start := start + len(part.index))
        features[rows], labels[rows] = part.features, part.labels
    return features, labels


def make_pixels(source: Source, data: ConfigDict) -> Encode:
    """The jitted function from evaluation batch to raw pixels, at most 32 x 32: kNN's floor.

    Args:
      source: either split.
      data: `config.data`.
    """
    size = min(data.image_size, 32)
    zeros, ones = (0.0,) * source.channels, (1.0,) * source.channels

    @jax.jit
    def pixels(batch: dict[str, jax.Array]) -> jax.Array:
        share = data.eval_crop_share
        if "crops" in batch:  # the centre already
            batch, share = {"image": batch["crops"][0]}, 1.0
        view = augment.eval_view(batch, size, share, zeros, ones)
        return view.reshape(len(view), -1)

    return pixels


def _fetch(on_device: tuple[jax.Array, ...]) -> Features:
    *columns, mask = transfer.fetch(on_device)
    found = Features(*(column[mask] for column in columns))
    finite = np.isfinite(found.features).all(1)
    if not finite.all():
        raise NotFiniteError(found.index[~finite])
    return found
