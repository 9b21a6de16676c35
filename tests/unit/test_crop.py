"""Decoding: every kind of file read as PIL reads it. Crops: sizes, bounds, repeatability."""

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

REGION = Region((0.2, 1.0), (3 / 4, 4 / 3))


def smooth(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(
        height, width, channels
    )


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


def resized(image, size):
    out = np.empty((size, size, 3), np.uint8)
    host_crop.resize(image, out)
    return out


def random_views(data, rng, regions, size):
    views = np.empty((len(regions), size, size, 3), np.uint8)
    host_crop.random_views(data, decoding.read_header(data, 10**8), rng, regions, views)
    return views


def test_random_numbers_depend_on_seed_epoch_and_index_alone():
    first = host_crop.generator(1, 2, 3).random(4)
    np.testing.assert_array_equal(first, host_crop.generator(1, 2, 3).random(4))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3), (1, 3, 2)):
        assert not np.isin(first, host_crop.generator(*other).random(1000)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5), (375, 500)])
def test_boxes_lie_inside_the_image(shape):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = host_crop.sample_box(rng, *shape, Region((0.05, 1), (0.5, 2)))
        assert top >= 0
        assert left >= 0
        assert 1 <= height <= shape[0] - top
        assert 1 <= width <= shape[1] - left


def test_boxes_reach_every_border():
    rng = np.random.default_rng(0)
    boxes = np.array([host_crop.sample_box(rng, 8, 9, REGION) for _ in range(2000)])
    assert boxes[:, :2].min(0).tolist() == [0, 0]
    assert (boxes[:, :2] + boxes[:, 2:]).max(0).tolist() == [8, 9]


@pytest.mark.parametrize(
    ("shape", "expected"), [((20, 100), (0, 36, 20, 27)), ((100, 20), (36, 0, 27, 20))]
)
def test_the_fallback_is_the_central_crop_with_the_ratio_clamped(shape, expected):
    rng = np.random.default_rng(0)
    box = host_crop.sample_box(rng, *shape, Region((1.0, 1.0), (3 / 4, 4 / 3)))
    assert box == expected


def test_two_views_differ_and_repeat():
    data = encode(Image.fromarray(smooth(90, 120)), "PNG")
    views = [random_views(data, host_crop.generator(0, 0, i), (REGION, REGION), 24) for i in (5, 5)]
    assert (views[0].shape, views[0].dtype) == ((2, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(*views)
    assert np.abs(views[0][0].astype(int) - views[0][1]).mean() > 5


def test_each_view_has_its_own_region():
    columns = np.arange(120, dtype=np.uint8)[:, None]
    image = np.broadcast_to(columns, (90, 120, 3)).copy()
    whole, part = (
        Region((1.0, 1.0), (4 / 3, 4 / 3)),
        Region((0.01, 0.01), (1.0, 1.0)),
    )
    data = encode(Image.fromarray(image), "PNG")
    views = random_views(data, host_crop.generator(0, 0, 0), (whole, part), 32)
    np.testing.assert_array_equal(views[0], resized(image, 32))
    assert int(views[1].max()) - views[1].min() <= 10  # of 10 columns


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (32, 32), (33, 500), (700, 900)])
def test_resizing_keeps_a_flat_image_flat(shape):
    image = np.full((*shape, 3), (10, 130, 255), np.uint8)
    np.testing.assert_array_equal(resized(image, 32), np.broadcast_to(image[0, 0], (32, 32, 3)))


def test_resizing_to_the_same_size_changes_nothing():
    image = smooth(32, 32)
    np.testing.assert_array_equal(resized(image, 32), image)


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resized(stripes, 96)
    assert small.astype(int).max() - small.min() < 80  # sampling alone would give 0 to 255


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (32, 32), (8, 90), (20, 21)])
def test_the_center_crop_is_the_middle_of_the_resized_image(shape):
    image = smooth(*shape)
    view = host_crop.center_crop(image, 28, 0.875)
    assert (view.shape, view.dtype) == ((28, 28, 3), np.uint8)
    short = min(shape)
    size = [round(32 * side / short) if side == short else int(32 * side / short) for side in shape]
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = (round((side - 28) / 2) for side in size)
    # Of a box PIL may filter rows before columns, and it rounds in between: at most one level.
    expected = whole[top : top + 28, left : left + 28].astype(int)
    np.testing.assert_allclose(view, expected, atol=1)
