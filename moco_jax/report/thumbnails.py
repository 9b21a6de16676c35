"""Small pictures of many images: raw pixels to compare them by, and one sheet to show them.

N images, S side of a thumbnail, B batch
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from moco_jax.data import contact_sheet
from moco_jax.data.source import ArraySource, Source
from moco_jax.evals.extraction import feature_batches

SIDE = 32  # S, at most
_QUALITY = 80  # of the sheet's JPEG


def made(source: Source, index: np.ndarray, batches: Sequence[dict[str, Any]]) -> np.ndarray:
    """Thumbnails of images as evaluation sees them: uint8 (N, S, S, 3) or, of arrays, (N, H, W, 3).

    Args:
      source: of the images.
      index: int (N,), which; in the order of the batches.
      batches: of them on the devices; encoded images are not read again. All processes call this.
    """
    if isinstance(source, ArraySource):
        images = contact_sheet.as_rgb(source.images[index])
        scale = SIDE / max(images.shape[1:3])
        if scale >= 1:
            return images
        size = tuple(max(1, round(scale * side)) for side in images.shape[2:0:-1])
        return np.stack([cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in images])
    side = min(SIDE, batches[0]["crops"][0].shape[1])

    @jax.jit
    def small(batch: dict[str, Any]) -> jax.Array:
        crops = batch["crops"][0].astype(jnp.float32)
        resized = jax.image.resize(crops, (len(crops), side, side, crops.shape[-1]), "linear")
        return resized.reshape(len(crops), -1)

    parts = [part.features for part in feature_batches(small, contextlib.nullcontext(batches))]
    shown = np.concatenate(parts).reshape(len(index), side, side, -1)
    return contact_sheet.as_rgb(np.rint(shown).clip(0, 255).astype(np.uint8))


def sheet(thumbnails: np.ndarray) -> np.ndarray:
    """All thumbnails, row by row in cells of SIDE pixels, as a JPEG: uint8 (its bytes,)."""
    n, height, width, _ = thumbnails.shape
    columns = across(n)
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, SIDE, SIDE, 3), np.uint8)
    cells[:n, :height, :width] = thumbnails
    cells = cells.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    picture = Image.fromarray(cells.reshape(rows * SIDE, columns * SIDE, 3))
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def across(n: int) -> int:
    """Columns of a sheet of n thumbnails."""
    return int(np.ceil(np.sqrt(n)))
