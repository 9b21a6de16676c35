"""16-bit images that use few of their bits: said, and scaled where a person asks for it."""

import logging

import cv2
import numpy as np
import pytest

from moco_jax import config
from moco_jax.data import decoding, loader, pipeline
from moco_jax.errors import InputError

SIZE = (70, 80)


def write(root, top, extension=".png", channels=1, count=3):
    """Ramps of 16 bits from 0 to `top`."""
    ramp = np.linspace(0, top, SIZE[0] * SIZE[1]).round().astype(np.uint16).reshape(*SIZE, 1)
    for i in range(count):
        image = np.repeat(ramp, channels, 2)
        (root / f"{i}{extension}").write_bytes(cv2.imencode(extension, image)[1].tobytes())
    return ramp


def opened(root, **overrides):
    data = config.default().data
    data.update(source=f"folder:{root}", threads=1, **overrides)
    return pipeline.open_data(data).train


@pytest.mark.parametrize(
    ("top", "levels"),
    [(65535, None), (40000, None), (32767, 32767), (4095, 4095), (3000, 4095), (1023, 1023),
     (255, 255), (1, 1)],
)  # fmt: skip
def test_few_levels_are_said_with_the_option_that_scales_them(tmp_path, caplog, top, levels):
    write(tmp_path, top)
    with caplog.at_level(logging.WARNING):
        opened(tmp_path)
    said = f"values up to {top} only (of 3 looked at)" in caplog.text
    assert said == (levels is not None)
    assert (f"data.levels={levels} scales them" in caplog.text) == said


@pytest.mark.parametrize("levels", [0, 4095, 1000, 65535])
@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_decide_what_is_white(tmp_path, caplog, levels, extension, channels):
    ramp = write(tmp_path, 4095, extension, channels).astype(float)
    source = opened(tmp_path, levels=levels)
    image, _ = loader.read(source, 0, 10**6)
    expected = np.minimum(ramp * 255 / levels, 255).round() if levels else ramp // 256
    np.testing.assert_allclose(
        image.astype(int), np.repeat(expected, 3, 2), atol=0 if levels else 1
    )
    assert ("data.levels" in caplog.text) == (levels == 0)


def test_colour_keeps_its_order_and_alpha_is_dropped(tmp_path):
    image = np.random.default_rng(0).integers(0, 1024, (6, 8, 4)).astype(np.uint16)
    data = cv2.imencode(".png", image)[1].tobytes()  # OpenCV writes blue, green, red, alpha
    found = decoding.decode(data, levels=1023)
    expected = (image[..., 2::-1] * (255 / 1023)).round()
    np.testing.assert_array_equal(found, expected)


def test_levels_change_nothing_of_8_bits(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    (tmp_path / "1.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    found, _ = loader.read(opened(tmp_path, levels=4095), 0, 10**6)
    np.testing.assert_array_equal(found, image[..., ::-1])


@pytest.mark.parametrize("size", [(70, 80), (20, 20)])
def test_views_small_images_and_evaluation_see_the_levels(tmp_path, size):
    image = cv2.imencode(".png", np.full(size, 4095, np.uint16))[1].tobytes()
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(image)
    data = config.default().data
    data.update(source=f"folder:{tmp_path}", levels=4095, threads=1, batch_size=2, image_size=8)
    data.eval_batch_size = 2
    source = pipeline.open_data(data).train
    for stream in (pipeline.train_batches(source, data, 0), pipeline.eval_batches(source, data)):
        with stream as batches:
            batch = next(batches)
            views = batch["crops"] if "crops" in batch else [batch["image"]]
            assert all((view == 255).all() for view in views)


WRONG = [("levels", -1), ("levels", 65536), ("read_seconds", -1.0), ("read_seconds", float("nan"))]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_values_that_cannot_be_meant_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"data.{name}={value}: expected 0"):
        opened(tmp_path, **{name: value})
