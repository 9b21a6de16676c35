"""Pixels of more than eight bits, and TIFF, which can hold any: what becomes of them, or a no.

H height, W width
"""

import io
import logging
import math
import re
import struct

import cv2
import numpy as np
from PIL import TiffImagePlugin

from moco_jax.errors import BadImage

log = logging.getLogger(__name__)

WHITE = 65535  # the largest value of 16 bits
_PNM = re.compile(rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*\d+){2}\s+(?:#[^\n]*\n\s*)*(\d+)\s")
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _SAMPLE_FORMAT = 258, 262, 277, 338, 339  # tags of TIFF
_CMYK, _ALPHA, _UNSIGNED = 5, (1, 2), (1, 4)


def is_deep(data: bytes, kind: str) -> bool:
    """Whether the pixels of an image in a format have 16 bits, all of which may be used.

    Args:
      data: the encoded image.
      kind: its format, 'png'.
    """
    if kind == "PNG":
        return data[24:25] == b"\x10"
    if kind == "PPM":
        found = _PNM.match(data)
        return bool(found) and int(found[1]) == WHITE
    return kind == "TIFF" and max(_tiff_tag(data, _BITS, (1,))) == 16


def check_tiff(data: bytes) -> None:
    """Refuses a TIFF that is no image of one or three channels, with alpha or not, or CMYK.

    Raises:
      BadImage: it has more channels, or pixels of other than up to 16 bits.
    """
    (samples,) = _tiff_tag(data, _SAMPLES, (1,))
    (photometric,) = _tiff_tag(data, _PHOTOMETRIC, (1,))
    extra, bits = _tiff_tag(data, _EXTRA, ()), max(_tiff_tag(data, _BITS, (1,)))
    kind = max(_tiff_tag(data, _SAMPLE_FORMAT, (1,)))
    if kind not in _UNSIGNED or bits not in (1, 2, 4, 8, 16):
        name = {2: "signed ", 3: "fractional "}.get(kind, "")
        raise BadImage(f"TIFF with {name}pixels of {bits} bits; expected unsigned ones of up to 16")
    alpha = samples in (2, 4) and extra[:1] and extra[0] in _ALPHA
    cmyk = samples == 4 and photometric == _CMYK
    if samples not in (1, 3) and not (alpha or cmyk):
        raise BadImage(
            f"TIFF with {samples} channels, none of them said to be alpha; expected gray or "
            "colour. Images of other channels are read from npz:PATH"
        )


def _tiff_tag(data: bytes, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """The values of a tag in the first directory of a TIFF."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        value = directory.get(tag, default)
    except (SyntaxError, OSError, ValueError, TypeError, KeyError, struct.error) as error:
        raise BadImage(f"damaged TIFF: {error}") from error
    return value if isinstance(value, tuple) else (value,)


def decode_deep(data: bytes) -> np.ndarray:
    """Decodes pixels of 16 bits to colour, uint16 (H, W, 3); alpha is dropped.

    Raises:
      BadImage: the bytes are cut short.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise BadImage("cut short, or 16-bit pixels that OpenCV does not read")
    image = image.reshape(*image.shape[:2], -1)
    return image[..., 2::-1] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)


def to_bytes(image: np.ndarray, levels: int) -> np.ndarray:
    """Scales pixels of 16 bits so that `levels` becomes 255, and what is above it too: uint8.

    Args:
      image: uint16.
      levels: `data.levels`, the value of white.
    """
    scaled = np.minimum(image.astype(np.float32) * np.float32(255 / levels), 255)
    return np.rint(scaled).astype(np.uint8)


def warn_about_levels(name: str, used: list[int]) -> None:
    """Says that the 16-bit images of a source use few of their bits, where that is so.

    Args:
      name: of the source.
      used: largest value of each of some such images.
    """
    bits = math.ceil(math.log2(max(used, default=0) + 1))
    if used and bits < 16:
        log.warning(
            "The 16-bit images of %s have values up to %d only (of %d looked at): as their upper "
            "byte is kept, they are dark and have few levels; data.levels=%d scales them",
            name, max(used), len(used), 2**bits - 1,
        )  # fmt: skip
