"""Decoding: every kind of file read as PIL reads it, whole or at a reduced scale."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from moco_jax.data import decoding, host_crop
from moco_jax.data.host_crop import Region
from moco_jax.errors import BadImage
from tests.encoded import encode, random_views, resized, smooth

REGION = Region((0.2, 1.0), (3 / 4, 4 / 3))


def as_pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


RGB = Image.fromarray(smooth(60, 84))
RGBA = Image.fromarray(smooth(60, 84, 4))
GRAY = RGB.convert("L")
PALETTE = RGB.convert("P")


def rotated():
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


FILES = {
    "jpeg": encode(RGB, "JPEG"),
    "jpeg 4:4:4": encode(RGB, "JPEG", subsampling=0),
    "jpeg progressive": encode(RGB, "JPEG", progressive=True),
    "jpeg gray": encode(GRAY, "JPEG"),
    "jpeg rotated by EXIF": encode(RGB, "JPEG", exif=rotated()),
    "png": encode(RGB, "PNG"),
    "png rotated by EXIF": encode(RGB, "PNG", exif=rotated()),
    "png gray": encode(GRAY, "PNG"),
    "png gray and alpha": encode(RGBA.convert("LA"), "PNG"),
    "png 1 bit": encode(RGB.convert("1"), "PNG"),
    "png palette": encode(PALETTE, "PNG"),
    "png palette of 4": encode(RGB.quantize(4), "PNG"),
    "png palette, one transparent": encode(PALETTE, "PNG", transparency=3),
    "png colour key": encode(RGB, "PNG", transparency=(10, 20, 30)),
    "png rgba": encode(RGBA, "PNG"),
    "webp": encode(RGB, "WEBP"),
    "webp lossless": encode(RGB, "WEBP", lossless=True),
    "webp rgba": encode(RGBA, "WEBP", lossless=True, exact=True),
    "webp animated": encode(RGB, "WEBP", save_all=True, append_images=[RGBA], lossless=True),
    "bmp": encode(RGB, "BMP"),
    "bmp gray": encode(GRAY, "BMP"),
    "bmp palette": encode(PALETTE, "BMP"),
    "bmp 1 bit": encode(RGB.convert("1"), "BMP"),
    "png 16-bit colour": cv2.imencode(".png", smooth(60, 84).astype(np.uint16) * 251)[1].tobytes(),
    "tiff, which only PIL is sure to know": encode(RGB, "TIFF"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_are_read_as_pil_reads_them(kind):
    image = decoding.decode(FILES[kind])
    assert (image.shape, image.dtype) == ((60, 84, 3), np.uint8)
    np.testing.assert_array_equal(image, as_pil(FILES[kind]))


def test_cmyk_is_read_as_pil_reads_it():
    # The two round the product of ink and black differently: at most 2 of 255.
    noise = np.random.default_rng(0).integers(0, 256, (40, 52, 4), dtype=np.uint8)
    for image in (RGB.convert("CMYK"), Image.fromarray(noise, "CMYK")):
        data = encode(image, "JPEG", quality=95)
        np.testing.assert_allclose(decoding.decode(data).astype(int), as_pil(data), atol=2)


@pytest.mark.parametrize("cut", [0, 1])
def test_16_bit_gray_is_scaled_not_saturated(cut):
    levels = np.linspace(0, 65535, 60 * 84).reshape(60, 84).astype(np.uint16)
    data = encode(Image.fromarray(levels), "PNG")
    # Without the file's last byte OpenCV refuses, and PIL's way is taken.
    image = decoding.decode(data[: len(data) - cut])
    np.testing.assert_array_equal(image, np.repeat(levels[..., None] >> 8, 3, 2))
    assert as_pil(data).mean() > 250  # what PIL alone would have made of it


LARGE = Image.fromarray(smooth(375, 500))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
    ],
)
def test_a_truncated_file_is_bad(kind, options, share):
    data = encode(LARGE, kind, **options)
    assert decoding.decode(data).shape == (375, 500, 3)
    with pytest.raises(BadImage):
        decoding.decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "zero bytes"), (b"<html>", "no kind of image"), (bytes(99), "no kind of image")],
)
def test_bytes_that_are_no_image_are_bad(data, reason):
    with pytest.raises(BadImage, match=reason):
        decoding.read_header(data, 10**6)


@pytest.mark.parametrize("kind", FILES)
def test_the_header_says_the_size(kind):
    header = decoding.read_header(FILES[kind], 10**6)
    assert header == (60, 84, "jpeg" in kind, 0)


def test_jpeg_headers_are_found_behind_any_other_segment():
    exif = rotated()
    exif[0x9286] = "x" * 30_000
    data = encode(RGB, "JPEG", exif=exif, icc_profile=bytes(90_000), comment=b"\xff\xc0" * 999)
    assert decoding._jpeg_size(data) == (60, 84)
    assert decoding._jpeg_size(data[:300]) is None
    filled = data[:2] + b"\xff\xff\xff" + data[2:]  # fill bytes, which are rare: PIL's turn
    assert decoding.read_header(filled, 10**6)[:2] == (60, 84)


def bomb(kind, height, width):
    """A small file that declares a huge image."""
    data = bytearray(encode(RGB, kind))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(60_000, 60_000), (1, 65_000), (65_000, 10)])
def test_more_pixels_than_allowed_are_refused_from_the_header(kind, shape, monkeypatch):
    monkeypatch.setattr(decoding, "decode", None)
    with pytest.raises(BadImage, match=rf"{shape[1]} x {shape[0]} pixels; expected 1 to"):
        decoding.read_header(bomb(kind, *shape), 60_000)


def test_what_opencv_refuses_is_bad_too():
    with pytest.raises(BadImage):
        decoding.decode(bomb("PNG", 100_000, 100_000))


def test_an_image_unlike_its_header_is_bad():
    data = FILES["jpeg"]
    header = decoding.read_header(data, 10**6)._replace(height=61)
    out = np.empty((1, 32, 32, 3), np.uint8)
    with pytest.raises(BadImage, match="84 x 60 pixels, unlike its header"):
        host_crop.random_views(data, header, host_crop.generator(0, 0, 0), [REGION], out)


@pytest.mark.parametrize(
    ("kind", "options", "size", "expected"),
    [
        ("JPEG", {}, 24, 4),  # both crops are 224 pixels high: 9.3 times as many
        ("JPEG", {"progressive": True}, 24, 4),
        ("JPEG", {"subsampling": 0}, 12, 8),
        ("JPEG", {}, 56, 2),
        ("JPEG", {}, 57, 1),
        ("PNG", {}, 24, 1),
    ],
)
def test_a_jpeg_far_larger_than_its_crops_is_decoded_smaller(
    kind, options, size, expected, monkeypatch
):
    """The crop's edges are rounded to the reduced pixels; from there on the mean difference stays
    below 4 of 255, on an image with more contrast in detail than photographs have."""
    calls, decode = [], decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda data, by=1, _=0: calls.append(by) or decode(data, by)
    )
    data = encode(Image.fromarray(smooth(227, 229)), kind, quality=95, **options)
    region = Region((0.97, 0.985), (1.0, 1.0))
    views = random_views(data, host_crop.generator(0, 0, 0), [region] * 2, size)
    assert calls == [expected]
    rng = host_crop.generator(0, 0, 0)
    for view in views:
        top, left, height, width = host_crop.sample_box(rng, 227, 229, region)
        edges = (top, top + height, left, left + width)
        top, bottom, left, right = (expected * round(edge / expected) for edge in edges)
        assert_near(view, resized(decode(data)[top:bottom, left:right], size), 4)


def assert_near(a, b, mean):
    assert np.abs(a.astype(int) - b).mean() < mean


def test_one_small_crop_keeps_the_whole_scale(monkeypatch):
    calls, decode = [], decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda data, by=1, _=0: calls.append(by) or decode(data, by)
    )
    data = encode(Image.fromarray(smooth(227, 229)), "JPEG")
    regions = [
        Region((0.97, 0.985), (1.0, 1.0)),
        Region((0.02, 0.03), (1.0, 1.0)),
    ]
    random_views(data, host_crop.generator(0, 0, 0), regions, 24)
    assert calls == [1]
