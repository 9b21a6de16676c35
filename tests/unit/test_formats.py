"""Which formats are opened, by content; whatever a decoder raises makes one image unreadable."""

import gzip
import io
import itertools
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from moco_jax.data import decoding, formats, pipeline
from moco_jax.data.source import open_source
from moco_jax.errors import BadImage
from tests.folders import save_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 52, 4), dtype=np.uint8)
RGB, RGBA = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


MODES = ("1", "L", "P", "RGB", "CMYK")
READ = {
    "gif": encode(RGB, "GIF"),
    "gif animated": encode(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)]),
    "gif transparent": encode(RGB.convert("P"), "GIF", transparency=3),
    "ppm": encode(RGB, "PPM"),
    "pgm": encode(RGB.convert("L"), "PPM"),
    "pgm text": b"P2\n# a comment\n2 2\n15\n0 5 10 15\n",
    "avif": encode(RGB, "AVIF"),
    "jpeg of several": encode(RGB, "MPO", save_all=True, append_images=[RGB]),
    **{f"tiff {mode}": encode(RGB.convert(mode), "TIFF") for mode in MODES},
    "tiff gray and alpha": encode(RGBA.convert("LA"), "TIFF"),
    "tiff rgba": encode(RGBA, "TIFF"),
    "tiff lzw": encode(RGB, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": encode(RGB, "TIFF", compression="jpeg"),
    "tiff of several": encode(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(90)]),
    "tiff big": encode(RGB, "TIFF", big_tiff=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_is_read_as_pil_reads_it(kind):
    expected = as_pil(READ[kind])
    assert decoding.read_header(READ[kind], 10**6)[:2] == expected.shape[:2]
    np.testing.assert_array_equal(decoding.decode(READ[kind]), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_upper_byte(kind, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 8, channels)).astype(np.uint16)
    data = cv2.imencode({"PPM": ".pgm" if channels == 1 else ".ppm"}.get(kind, f".{kind.lower()}"),
                        pixels[..., ::-1])[1].tobytes()  # fmt: skip
    assert formats.format_of(data) == kind
    found = decoding.decode(data).astype(int)
    np.testing.assert_allclose(found, np.broadcast_to(pixels >> 8, (6, 8, 3)), atol=1)


def tiff(bands, extra=(), kind=1, bits=8):
    """A TIFF as programs of remote sensing write it: bands that nothing explains."""
    body = bytes(6 * 8 * bands * bits // 8)
    tags = {256: [8], 257: [6], 258: [bits] * bands, 259: [1], 262: [1], 273: [0], 277: [bands],
            278: [6], 279: [len(body)], 338: extra, 339: [kind] * bands}  # fmt: skip
    tags = {tag: values for tag, values in tags.items() if len(values)}
    at, entries, long = 10 + 12 * len(tags) + 4, b"", b""
    tags[273] = [at + sum(2 * len(v) for v in tags.values() if len(v) > 2)]
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, long = struct.pack("<I", at + len(long)), long + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + long + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((tiff(bands, [0] * (bands - 1)), f"TIFF with {bands} channels, none.*npz:PATH")
          for bands in (2, 4, 5, 13)),
        (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
         "TIFF with fractional pixels of 32 bits; expected unsigned"),
        (encode(Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF"), "signed pixels of 32 bits"),
        (tiff(1, kind=2, bits=16), "signed pixels of 16 bits"),
        (READ["tiff RGB"][:60], "."),
        (READ["avif"][:100], "."),
        (READ["gif"][:8], "."),
        (b"II*\0" + b"\xff" * 40, "damaged"),
        (b"P5\n", "."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_images_that_are_not_read_say_why(data, message):
    with pytest.raises(BadImage, match=message):
        decoding.decode(data)


STRANGERS = {
    "PostScript": encode(RGB, "EPS"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "a web page": b"\n<!DOCTYPE html><html>404 Not Found</html>",
    "SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "gzip": gzip.compress(encode(RGB, "JPEG")),
    "PDF": encode(RGB, "PDF"),
    "JPEG 2000": encode(RGB, "JPEG2000"),
    "a macOS resource": b"\0\5\x16\7\0\2\0\0Mac OS X",
    "": encode(RGB, "DDS"),
    "ico": encode(RGB, "ICO"),
    "spider": encode(RGB.convert("F"), "SPIDER"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_other_formats_are_never_handed_to_a_decoder(kind, monkeypatch):
    """Pillow would start Ghostscript for an EPS file that is called .jpg."""
    for module, name in ((Image, "open"), (cv2, "imdecode")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a decoder was called"))
    looks = f"it looks like {kind}" if kind not in ("", "ico", "spider") else "expected JPEG"
    for read in (decoding.decode, lambda data: decoding.read_header(data, 10**9)):
        with pytest.raises(BadImage, match=f"no kind of image that is read .*{looks}"):
            read(STRANGERS[kind])


def test_pillow_is_told_the_one_format(monkeypatch):
    asked, opening = [], Image.open
    monkeypatch.setattr(
        Image,
        "open",
        lambda file, formats=None: asked.append(formats) or opening(file, "r", formats),
    )
    for data in READ.values():
        decoding.decode(data)
    assert {kind for kinds in asked for kind in kinds} == {"GIF", "PPM", "AVIF", "TIFF"}


@pytest.mark.parametrize(
    "error",
    [IndexError("list index"), struct.error("unpack"), ZeroDivisionError(), EOFError(),
     MemoryError("no room"), RuntimeError("aom failed"), KeyError(3), OSError("broken")],
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_unreadable_image(tmp_path, monkeypatch, caplog, error):
    """A run goes on with the other images, and the log says which one and why."""
    for i in range(20):
        save_image(tmp_path / f"{i:02}.gif", 9 * i, (70, 80))
    convert = Image.Image.convert

    def failing(image, mode):
        pixels = convert(image, mode)
        if np.asarray(pixels)[0, 0, 0] == 9 * 7:
            raise error
        return pixels

    monkeypatch.setattr(Image.Image, "convert", failing)
    data = pipeline_options(tmp_path)
    with pipeline.train_batches(pipeline.open_data(data).train, data, 0) as batches:
        index = np.concatenate([b["index"] for b in itertools.islice(batches, 10)])
    assert set(index.tolist()) == set(range(20)) - {7}
    assert "07.gif: " + (str(error) or type(error).__name__) in caplog.text


def pipeline_options(root, **overrides):
    from moco_jax import config

    data = config.default().data
    data.update(source=f"folder:{root}", batch_size=8, image_size=8, threads=1, **overrides)
    return data


def test_one_bad_image_never_ends_a_small_run_and_two_do(tmp_path):
    for i in range(97):
        save_image(tmp_path / f"{i:02}.png", i, (70, 80))
    data = pipeline_options(tmp_path)

    def read():
        with pipeline.train_batches(open_source(data.source).train, data, 0) as batches:
            return len(list(itertools.islice(batches, 30)))

    (tmp_path / "50.png").write_bytes(b"")
    assert read() == 30
    (tmp_path / "51.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"cannot be read, more than data.max_bad_share=0.01"):
        read()
