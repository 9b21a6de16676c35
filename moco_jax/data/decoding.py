"""Decoding on the host: encoded bytes in, what their header says or uint8 pixels out.

H height, W width of an image
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from moco_jax.data import deep_pixels, formats
from moco_jax.errors import BadImage

# The pipeline runs one image per thread; OpenCV's own threads would only get in their way.
cv2.setNumThreads(0)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # BadImage says it better

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame header
# The bits of the scale alone: OpenCV's names join them with gray or BGR, none with RGB.
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}
# OpenCV reads these as Pillow does, sooner; of the others Pillow's way is taken.
_OPENCV = ("JPEG", "PNG", "WEBP", "BMP")
# Bits and colour type of a PNG whose pixels are numbers as they stand: gray, or a palette's.
_NUMBERS = {(8, 0), (8, 3), (4, 3), (2, 3), (1, 3)}


class Header(NamedTuple):
    """What the first bytes of an image say.

    Attributes:
      height: H.
      width: W.
      jpeg: whether it is a JPEG.
      levels: value of its 16-bit pixels that becomes white; 0: 65535, or it has others.
    """

    height: int
    width: int
    jpeg: bool
    levels: int = 0


def read_header(data: bytes, max_pixels: int, levels: int = 0) -> Header:
    """Reads the size of an image without decoding it.

    Args:
      data: The encoded image.
      max_pixels: More are refused.
      levels: `data.levels`.

    Raises:
      BadImage: for bytes that are empty or no image, and for no or more than `max_pixels` pixels.
    """
    kind = _kind(data)
    size = _jpeg_size(data) if kind == "JPEG" else None
    height, width = size or _png_size(data) or _size_by_pil(data, kind)
    if not 0 < height * width <= max_pixels:
        raise BadImage(f"{width} x {height} pixels; expected 1 to data.max_pixels={max_pixels}")
    deep = levels and deep_pixels.is_deep(data, kind)
    return Header(height, width, size is not None, levels if deep else 0)


def _kind(data: bytes) -> str:
    """The format of encoded bytes; BadImage where it is none that is read."""
    if not data:
        raise BadImage("zero bytes")
    kind = formats.format_of(data)
    if not kind:
        raise BadImage(formats.describe_other(data))
    if kind == "TIFF":
        deep_pixels.check_tiff(data)
    return kind


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


def _size_by_pil(data: bytes, kind: str) -> tuple[int, int]:
    with _decoder_errors(), Image.open(io.BytesIO(data), formats=[kind]) as image:
        return image.size[::-1]


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """Turns whatever a decoder raises for a bad image into BadImage."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:  # whose message names an object in memory
        raise BadImage("its first bytes are damaged") from error
    except Exception as error:
        # OpenCV's own text is behind the place in its source.
        raise BadImage(getattr(error, "err", str(error)) or type(error).__name__) from error


def decode(data: bytes, reduction: int = 1, levels: int = 0) -> np.ndarray:
    """Decodes an image to colour, as `PIL.Image.open(...).convert('RGB')` does.

    Alpha is dropped, a palette is looked up, EXIF orientation is ignored: what networks trained
    through PIL have seen; of several pictures in a file, the first. 16-bit pixels keep their upper
    byte (PIL would saturate gray ones).

    Args:
      data: The encoded image.
      reduction: 1; of a JPEG also 2, 4 or 8: decoded at so much smaller a scale, from fewer
        coefficients of its cosine transform.
      levels: of a header: the value of 16-bit pixels that becomes white; 0: as said.

    Returns:
      uint8 (H, W, 3); with a reduction its sides are rounded up.

    Raises:
      BadImage: for bytes that are cut short or no image.
    """
    kind, image = _kind(data), None
    with _decoder_errors():
        if levels:
            return deep_pixels.to_bytes(deep_pixels.decode_deep(data), levels)
        if kind in _OPENCV:
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[reduction]
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        return _decode_with_pil(data, kind) if image is None else image


def _decode_with_pil(data: bytes, kind: str) -> np.ndarray:
    """For formats that OpenCV does not read as Pillow, and for the reason why an image is bad."""
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        if image.mode == "I" or image.mode.startswith("I;16"):  # either has 16 bits
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def check_numbers(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Height and width of a PNG whose pixels are numbers, of which its first bytes are enough.

    Args:
      data: the encoded image.
      max_pixels: more are refused.

    Raises:
      BadImage: it is no PNG, or its pixels are colours, or of another depth.
    """
    header = read_header(data, max_pixels)
    if _kind(data) != "PNG" or tuple(data[24:26]) not in _NUMBERS:
        raise BadImage("expected a PNG with a palette or 8 bits of gray, whose pixels are numbers")
    return header.height, header.width


def decode_numbers(data: bytes, max_pixels: int) -> np.ndarray:
    """The numbers of a PNG's pixels, uint8 (H, W): a palette is not looked up.

    Args:
      data: the encoded image.
      max_pixels: more are refused.

    Raises:
      BadImage: see `check_numbers`; or it is cut short.
    """
    check_numbers(data, max_pixels)
    with _decoder_errors(), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return np.asarray(image)


def deep_value(data: bytes, max_pixels: int) -> int | None:
    """The largest value of an image whose pixels have 16 bits; None of another.

    Args:
      data: the encoded image.
      max_pixels: `data.max_pixels`.
    """
    with _decoder_errors():
        read_header(data, max_pixels)
        if not deep_pixels.is_deep(data, _kind(data)):
            return None
        return int(deep_pixels.decode_deep(data).max())
