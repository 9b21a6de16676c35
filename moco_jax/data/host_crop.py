"""Cropping on the host: encoded bytes in, uint8 crops out.

H height, W width of an image, V views, S output size (pixels)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from moco_jax.data import decoding
from moco_jax.errors import BadImage

_TRIES = 10  # of torchvision's RandomResizedCrop
_BORDER = cv2.BORDER_REPLICATE
_GAP = 2  # times that a crop still shrinks after decoding at reduced scale


class Region(NamedTuple):
    """What RandomResizedCrop draws from: `area` as shares of the image's, `ratio` width/height."""

    area: tuple[float, float]
    ratio: tuple[float, float]


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one image in one epoch, whoever draws them and when.

    Args:
      seed: of the run.
      epoch: from 0.
      index: of the image in its source.
    """
    # `sample_order` has the same key and counter 0; each counter is 2^128 numbers from the next.
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, index + 1, 0]))


def sample_box(rng: np.random.Generator, height: int, width: int, region: Region) -> Box:
    """Draws a crop as torchvision's RandomResizedCrop does.

    The share of the area is uniform, the aspect ratio log-uniform; after ten boxes that do not
    fit, the central crop with the ratio clamped. Uses the same count of random numbers always.

    Args:
      rng: its next numbers are taken.
      height: of the image, pixels.
      width: of the image.
      region: ranges of area and aspect ratio.
    """
    low, high = region.area
    log_low, log_high = map(math.log, region.ratio)
    for share, aspect, y, x in rng.random((_TRIES, 4)).tolist():
        area = height * width * (low + (high - low) * share)
        ratio = math.exp(log_low + (log_high - log_low) * aspect)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(y * (height - h + 1)), int(x * (width - w + 1)), h, w)
    ratio = min(max(width / height, region.ratio[0]), region.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize(image: np.ndarray, out: np.ndarray) -> None:
    """Resizes to a square, close to PIL's antialiased bilinear at a third of its cost or less.

    PIL weighs source pixels by a triangle as wide as the shrinking. Here that triangle filters
    the source, which is then sampled: linearly where the filter is wide, else cubically. On
    images with a 1/f spectrum the mean difference from PIL is about 1 of 255, at most 2
    (INTER_AREA, at twice the cost: 2, at most 3.5), and 0.3 when enlarging.

    Args:
      image: uint8 (H, W, 3).
      out: Where the result goes, uint8 (S, S, 3).
    """
    height, width = image.shape[:2]
    size = len(out)
    shrink = math.sqrt(height * width) / size
    if shrink > 1.1:
        across, down = _triangle(width / size), _triangle(height / size)
        image = cv2.sepFilter2D(image, -1, across, down, borderType=_BORDER)
    sampling = cv2.INTER_CUBIC if 1.1 < shrink < 1.8 else cv2.INTER_LINEAR
    cv2.resize(image, (size, size), dst=out, interpolation=sampling)


def _triangle(shrink: float) -> np.ndarray:
    """PIL's bilinear weights around a source pixel's centre, for shrinking by `shrink`."""
    reach = math.ceil(max(shrink, 1.0)) - 1
    weights = 1 - np.abs(np.arange(-reach, reach + 1, dtype=np.float32)) / max(shrink, 1.0)
    return weights / weights.sum()


def random_views(
    data: bytes,
    header: decoding.Header,
    rng: np.random.Generator,
    regions: Sequence[Region],
    out: Sequence[np.ndarray],
) -> None:
    """One random resized crop for each region, all from one decoding.

    Where every crop is far larger than wanted, a JPEG is decoded at reduced scale; the crops'
    edges are then rounded to its pixels.

    Args:
      data: The encoded image.
      header: Its size, from `read_header`.
      rng: Random numbers.
      regions: V of them.
      out: Where the views go, V of uint8 (S, S, 3), each with a size of its own.

    Raises:
      BadImage: for bytes that are cut short or no image.
    """
    boxes = [sample_box(rng, header.height, header.width, region) for region in regions]
    by = _reduction(boxes, out) if header.jpeg else 1
    image = decoding.decode(data, by, header.levels)
    if image.shape[:2] != (-(-header.height // by), -(-header.width // by)):
        raise BadImage(f"decodes to {image.shape[1]} x {image.shape[0]} pixels, unlike its header")
    for box, view in zip(boxes, out):
        resize(_cut(image, box, by), view)


def _reduction(boxes: Sequence[Box], out: Sequence[np.ndarray]) -> int:
    shrink = min(min(box.height, box.width) / len(view) for box, view in zip(boxes, out))
    return next((by for by in (8, 4, 2) if shrink >= _GAP * by), 1)


def _cut(image: np.ndarray, box: Box, by: int) -> np.ndarray:
    """The part of an image, decoded at 1/by, that the box stands for in the whole."""
    top, bottom = round(box.top / by), round((box.top + box.height) / by)
    left, right = round(box.left / by), round((box.left + box.width) / by)
    return image[top:bottom, left:right]


def center_crop(image: np.ndarray, size: int, share: float) -> np.ndarray:
    """Resizes the short side to size / share, then cuts the centre: evaluation's view.

    The resizing is PIL's own, as in torchvision's Resize and CenterCrop.

    Args:
      image: uint8 (H, W, 3).
      size: S.
      share: of the resized short side that is kept, in (0, 1].

    Returns:
      uint8 (S, S, 3).
    """
    height, width = image.shape[:2]
    scale = round(size / share) / min(height, width)
    down, across = (
        round(size / share) if side == min(height, width) else int(side * scale)
        for side in (height, width)
    )
    top, left = round((down - size) / 2), round((across - size) / 2)
    edges = (left, top, left + size, top + size)
    scales = (width / across, height / down) * 2
    box = tuple(edge * scale for edge, scale in zip(edges, scales))
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)
