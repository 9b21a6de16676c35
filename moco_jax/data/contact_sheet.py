"""A picture of eight images and their views as the network sees them.

N images of the picture, S view size, C channels, V columns: the image as evaluation sees it and
the views of the method
"""

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import augment, host_crop, loader, pipeline
from moco_jax.data.source import ArraySource, Source

COUNT = 8
_GAP = 4  # pixels between images
_SIDE = 96  # pixels; smaller images are enlarged to at least this


def views(
    source: Source, config: ConfigDict, recipes: Sequence[ConfigDict], count: int = COUNT
) -> np.ndarray:
    """The first images of the training stream, denormalized: uint8 (N, V, S, S, C).

    Args:
      source: of the training images.
      config: of the run.
      recipes: of the method's views; smaller ones are enlarged to S.
      count: N, at most.
    """
    d = config.data.copy_and_resolve_references()
    mean, std = pipeline.channel_stats(source, d)
    d.batch_size = min(count, len(source))
    with pipeline.train_batches(source, d, config.seed, views=recipes) as batches:
        batch = next(batches)
    view = augment.make_views(recipes, d.image_size, mean, std, config.seed)

    @jax.jit
    def columns(whole: loader.Batch, batch: loader.Batch) -> list[jax.Array]:
        first = augment.eval_view(whole, d.image_size, d.eval_crop_share, mean, std)
        others = [view(batch, which) for which in range(len(recipes))]
        shape = first.shape
        return [first, *(jax.image.resize(x, shape, "nearest") for x in others)]

    middle = middles(source, batch["index"], d, d.image_size)
    whole = {"image": middle} if isinstance(source, ArraySource) else {"crops": (middle,)}
    shown = np.stack(jax.device_get(columns(whole, batch)), 1)
    pixels = 255 * (shown * np.array(std) + np.array(mean))
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def middles(source: Source, index: np.ndarray, d: ConfigDict, size: int) -> np.ndarray:
    """What evaluation's view is made of: (N, H, W, C) of arrays, else (N, size, size, 3)."""
    if isinstance(source, ArraySource):
        return source.images[index]
    images = (loader.read(source, i, d.max_pixels)[0] for i in index.tolist())
    return np.stack([host_crop.center_crop(image, size, d.eval_crop_share) for image in images])


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images (..., C) as (..., 3): of other than three channels the mean of the channels, uint8."""
    if images.shape[-1] == 3:
        return images
    return np.repeat(images.mean(-1, keepdims=True), 3, -1).astype(np.uint8)


def grid(images: np.ndarray) -> np.ndarray:
    """Lays (N, V, S, S, C) out, a column for each image: uint8 (height, width, 3).

    Images of other than one and three channels are shown by the mean of the channels.
    """
    n, v, size, _, _ = images.shape
    images = as_rgb(images)
    by = max(1, -(-_SIDE // size))
    images = images.repeat(by, 2).repeat(by, 3)
    cell = size * by + _GAP
    canvas = np.full((v, cell, n, cell, 3), 255, np.uint8)
    canvas[:, :-_GAP, :, :-_GAP] = images.transpose(1, 2, 0, 3, 4)
    return canvas.reshape(v * cell, n * cell, 3)[:-_GAP, :-_GAP]
