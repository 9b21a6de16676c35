"""Decoding and cropping on the host: encoded bytes in, uint8 crops out.

H height, W width of an image, V views, S output size (pixels)
"""

import contextlib
import io
import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from moco_jax.errors import InputError

# The pipeline runs one image per thread; OpenCV's own threads would only get in their way.
cv2.setNumThreads(0)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # BadImage says it better

_TRIES = 10  # of torchvision's RandomResizedCrop
_BORDER = cv2.BORDER_REPLICATE
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame header
_GAP = 2  # times that a crop still shrinks after decoding at reduced scale
# The bits of the scale alone: OpenCV's names join them with gray or BGR, none with RGB.
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}
_NO_IMAGE = "no kind of image that OpenCV or Pillow knows"


class BadImage(InputError):
    """Bytes that are no whole image."""


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


class Header(NamedTuple):
    """What the first bytes of an image say: its size in pixels, and whether it is a JPEG."""

    height: int
    width: int
    jpeg: bool


def read_header(data: bytes, max_pixels: int) -> Header:
    """Reads the size of an image without decoding it.

    Raises:
      BadImage: for bytes that are empty or no image, and for no or more than `max_pixels` pixels.
    """
    if not data:
        raise BadImage("zero bytes")
    size = _jpeg_size(data) if data.startswith(b"\xff\xd8") else None
    height, width = size or _png_size(data) or _size_by_pil(data)
    if not 0 < height * width <= max_pixels:
        raise BadImage(f"{width} x {height} pixels; expected 1 to data.max_pixels={max_pixels}")
    return Header(height, width, jpeg=size is not None)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) in a JPEG's frame header, a tenth of what PIL takes for it; None where not found."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) in a PNG's first chunk; None for another format."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 24:
        return None
    return struct.unpack_from(">II", data, 16)[::-1]


def _size_by_pil(data: bytes) -> tuple[int, int]:
    with _pil_errors(), Image.open(io.BytesIO(data)) as image:
        return image.size[::-1]


@contextlib.contextmanager
def _pil_errors() -> Iterator[None]:
    """Turns what PIL raises for a bad image into BadImage."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose message names an object in memory
        raise BadImage(_NO_IMAGE) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage(str(error)) from error


def decode(data: bytes, reduction: int = 1) -> np.ndarray:
    """Decodes an image to colour, as `PIL.Image.open(...).convert('RGB')` does.

    Alpha is dropped, a palette is looked up, EXIF orientation is ignored: what networks trained
    through PIL have seen. 16-bit pixels keep their upper byte (PIL would saturate gray ones).

    Args:
      data: The encoded image.
      reduction: 1; of a JPEG also 2, 4 or 8: decoded at so much smaller a scale, from fewer
        coefficients of its cosine transform.

    Returns:
      uint8 (H, W, 3); with a reduction its sides are rounded up.

    Raises:
      BadImage: for bytes that are cut short or no image.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[reduction]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(str(error.err)) from error
    return _decode_with_pil(data) if image is None else image


def _decode_with_pil(data: bytes) -> np.ndarray:
    """For formats that OpenCV does not know, and for the reason why an image is bad."""
    with _pil_errors(), Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16"):
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one image in one epoch, whoever draws them and when."""
    # `sample_order` has the same key and counter 0; each counter is 2^128 numbers from the next.
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, index + 1, 0]))


def sample_box(rng: np.random.Generator, height: int, width: int, region: Region) -> Box:
    """Draws a crop as torchvision's RandomResizedCrop does.

    The share of the area is uniform, the aspect ratio log-uniform; after ten boxes that do not
    fit, the central crop with the ratio clamped. Uses the same count of random numbers always.
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
    header: Header,
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
    image = decode(data, by)
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
