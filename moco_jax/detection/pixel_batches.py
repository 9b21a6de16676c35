"""Batches of images with label maps, in an order and with a chance that seed and step decide.

A batch has rows of each value of `cropping.onto_canvas`; see `batches` for what else it has.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from moco_jax.data.prefetch import Prefetcher
from moco_jax.detection.batches import Example, eval_stream, train_stream
from moco_jax.detection.cropping import Cropping, check_canvas, cropped, draw, onto_canvas
from moco_jax.detection.label_maps import IGNORED
from moco_jax.detection.segmented import SegmentedSet


def train_pixels(
    source: SegmentedSet,
    cropping: Cropping,
    data: ConfigDict,
    seed: int,
    start_step: int = 0,
    **how: Any,
) -> Prefetcher:
    """The endless stream of training batches; for the arguments see `batches.train_batches`.

    An image whose label map cannot be used gives way to the next as well.
    """

    def one(index: int, epoch: int) -> Example:
        image = source.images[index]
        pixels, labels = image.pixels(data.max_pixels), image.labels(data.max_pixels)
        return cropped(pixels, labels, cropping, draw(cropping, seed, epoch, index))

    return train_stream(source, one, data, seed, start_step, **how)


def eval_pixels(
    source: SegmentedSet, canvas: tuple[int, int], data: ConfigDict, **how: Any
) -> Prefetcher:
    """All images in order, once, whole and unscaled; see `batches.eval_batches`.

    Raises:
      InputError: an image is larger than the canvas, or from `batches.eval_batches`.
    """
    check_canvas(canvas, source)

    def one(index: int) -> Example:
        image = source.images[index]
        return onto_canvas(image.pixels(data.max_pixels), image.labels(data.max_pixels), canvas)

    return eval_stream(source, one, lambda _: blank(canvas), data, **how)


def blank(canvas: tuple[int, int]) -> Example:
    """A row of padding: an image of one black pixel without a class.

    Args:
      canvas: H, W.
    """
    nothing = np.zeros((1, 1, 3), np.uint8), np.full((1, 1), IGNORED, np.uint8)
    return onto_canvas(*nothing, canvas)
