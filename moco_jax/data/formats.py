"""The formats of images that are opened: told by their content, and no others.

Pillow opens every format it knows, some of them by other programs (EPS by Ghostscript), so that
what a file is called, or hides, must not decide.
"""

import importlib.util
import re
from typing import NamedTuple


class Format(NamedTuple):
    """A format: Pillow's name of it, the ends of its files' names, how its files begin."""

    name: str
    extensions: tuple[str, ...]
    start: re.Pattern[bytes]


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_ALL = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), _begins(rb"\xff\xd8")),
    Format("PNG", (".png",), _begins(rb"\x89PNG\r\n\x1a\n")),
    Format("WEBP", (".webp",), _begins(rb"RIFF....WEBP")),
    Format("BMP", (".bmp",), _begins(rb"BM")),
    Format("TIFF", (".tif", ".tiff"), _begins(rb"II[*+]\0|MM\0[*+]")),
    Format("GIF", (".gif",), _begins(rb"GIF8[79]a")),
    Format("PPM", (".ppm", ".pgm"), _begins(rb"P[1-6]\s")),
    # Of the kinds of image that share its container, one of those it names is AVIF.
    Format("AVIF", (".avif",), _begins(rb"....ftyp.{0,64}avi[fs]")),
)
FORMATS = tuple(f for f in _ALL if f.name != "AVIF" or importlib.util.find_spec("PIL._avif"))
EXTENSIONS = tuple(extension for f in FORMATS for extension in f.extensions)

# What else is found under the names of images; for the message alone.
_OTHERS = (
    ("AVIF, which this Pillow cannot read", _ALL[-1].start),
    ("HEIC", _begins(rb"....ftyp(hei|hev|mif1|msf1)")),
    ("a web page", _begins(rb"(?i:\s*<(!doctype html|html))")),
    ("SVG", _begins(rb"\s*(<\?xml.{0,400})?<svg")),
    ("gzip", _begins(rb"\x1f\x8b")),
    ("ZIP", _begins(rb"PK\x03\x04")),
    ("PDF", _begins(rb"%PDF")),
    ("PostScript", _begins(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("Photoshop", _begins(rb"8BPS")),
    ("JPEG 2000", _begins(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("JPEG XL", _begins(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("DICOM", _begins(rb".{128}DICM")),
    ("OpenEXR", _begins(rb"\x76\x2f\x31\x01")),
    ("a macOS resource, no image", _begins(rb"\0\x05\x16\x07")),
)


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format that encoded bytes are in; None for one that is not read."""
    return next((f.name for f in FORMATS if f.start.match(data)), None)


def describe_other(data: bytes) -> str:
    """What bytes that are in none of the formats look like, for a message."""
    known = ", ".join(f.name for f in FORMATS)
    found = next((name for name, start in _OTHERS if start.match(data)), None)
    hint = f"it looks like {found}; " if found else ""
    return f"no kind of image that is read ({hint}expected {known})"
