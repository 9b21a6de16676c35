"""Crops of images with label maps, and their batches."""

import functools

import numpy as np
import pytest
from PIL import Image

from moco_jax.data import pipeline
from moco_jax.detection import cropping, pixel_batches
from moco_jax.detection.cropping import Cropping, Drawn
from moco_jax.detection.label_maps import IGNORED
from moco_jax.detection.segmented import open_segmented
from moco_jax.errors import BadImage, InputError
from tests import pixel_sets, streams
from tests.streams import assert_same, column, join, take

NAMES = "abcdefghij"
CROP = Cropping((33, 49))


options = functools.partial(streams.options, batch_size=4, eval_batch_size=4, max_bad_share=0.5)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 21, (41, 61)).astype(np.uint8)  # odd: none is as near as another
    return rng.integers(0, 256, (41, 61, 3)).astype(np.uint8), labels


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.61, 0.8, 1.0, 1.37, 2.0])
@pytest.mark.parametrize(("top", "left"), [(0.0, 0.0), (0.4, 0.7), (0.999, 0.999)])
def test_a_crop_is_part_of_the_whole_image_scaled(scale, top, left, mirror, scene):
    got = cropping.cropped(*scene, CROP, Drawn(scale, top, left, mirror))
    height, width = (int(side * scale + 0.5) for side in (41, 61))
    pixels, labels = (
        np.asarray(Image.fromarray(x).resize((width, height), how))
        for x, how in zip(scene, (Image.Resampling.BILINEAR, Image.Resampling.NEAREST))
    )
    size = down, across = min(height, 33), min(width, 49)
    y, x = int(top * (height - down + 1)), int(left * (width - across + 1))
    part = np.s_[y : y + down, x : x + across]
    turn = slice(None, None, -1 if mirror else 1)
    assert got["size"].tolist() == list(size)
    got_pixels = got["image"][:down, :across].astype(int)
    assert abs(got_pixels - pixels[part][:, turn]).max() <= 1  # roundings
    np.testing.assert_array_equal(got["labels"][:down, :across], labels[part][:, turn])
    assert (got["image"].shape, got["labels"].shape) == ((33, 49, 3), (33, 49))
    for padding in (np.s_[down:], np.s_[:, across:]):
        assert not got["image"][padding].any()
        assert (got["labels"][padding] == IGNORED).all()


def test_chance_is_even_and_of_seed_epoch_and_index_alone():
    drawn = [cropping.draw(CROP, 0, epoch, i) for epoch in range(3) for i in range(500)]
    assert drawn[501] == cropping.draw(CROP, 0, 1, 1)
    assert drawn[1] != drawn[501] != cropping.draw(CROP, 1, 1, 1)
    values = np.array(drawn, np.float64)
    assert (values.min(0) >= (0.5, 0, 0, 0)).all()
    assert (values.max(0) <= (2, 1, 1, 1)).all()
    np.testing.assert_allclose(values.mean(0), [1.25, 0.5, 0.5, 0.5], atol=0.05)
    assert (abs(np.corrcoef(values.T) - np.eye(4)) < 0.1).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    pixel_sets.voc(root, NAMES)
    return open_segmented(f"voc:{root}").train


def test_batches_depend_on_seed_and_step_alone(data):
    whole = take(pixel_batches.train_pixels(data, CROP, options(), 3), 6)
    order = np.concatenate([pipeline.sample_order(3, epoch, 10) for epoch in range(3)])[:24]
    np.testing.assert_array_equal(column(whole, "index"), order)
    row = cropping.cropped(
        data.images[order[21]].pixels(10**6), data.images[order[21]].labels(10**6), CROP,
        cropping.draw(CROP, 3, 2, int(order[21])),
    )  # fmt: skip
    for name, value in row.items():
        np.testing.assert_array_equal(whole[5][name][1], value)
    assert_same(
        take(pixel_batches.train_pixels(data, CROP, options(threads=5), 3, 4), 2), whole[4:]
    )
    parts = [take(pixel_batches.train_pixels(data, CROP, options(), 3, host=h, hosts=2), 6)
             for h in (0, 1)]  # fmt: skip
    assert_same(join(parts), whole)


def test_evaluation_sees_each_image_once_whole_and_pads(data):
    found = take(pixel_batches.eval_pixels(data, (49, 65), options()), 9)
    assert [b["mask"].tolist() for b in found] == [[True] * 4] * 2 + [[True] * 2 + [False] * 2]
    for i, image in enumerate(data.images):
        batch, row = found[i // 4], i % 4
        np.testing.assert_array_equal(batch["image"][row, :40, :60], image.pixels(10**6))
        np.testing.assert_array_equal(batch["labels"][row, :40, :60], image.labels(10**6))
        assert batch["size"][row].tolist() == [40, 60]
        assert (batch["labels"][row, 40:] == IGNORED).all()
    assert (found[2]["labels"][2:] == IGNORED).all()


def test_a_label_map_that_cannot_be_used_gives_way_or_is_padding(tmp_path, caplog):
    pixel_sets.voc(tmp_path, NAMES)
    data = open_segmented(f"voc:{tmp_path}").train
    pixel_sets.label_map(tmp_path / "SegmentationClass" / "c.png", np.full((40, 60), 21))
    order = np.concatenate([pipeline.sample_order(0, epoch, 10) for epoch in (0, 1)])
    found = take(pixel_batches.train_pixels(data, CROP, options(), 0), 3)
    wanted = np.where(order == 2, 3, order)[:12]
    np.testing.assert_array_equal(column(found, "index"), wanted)
    assert "cannot be read: c.jpg: label map" in caplog.text
    assert "the value 21 in 2,400 pixels; expected 0 to 20, or 255" in caplog.text
    shown = take(pixel_batches.eval_pixels(data, (49, 65), options()), 3)
    assert column(shown, "index").tolist()[:4] == [0, 1, -1, 3]
    for file in (tmp_path / "SegmentationClass").iterdir():
        file.write_bytes(b"")
    with pytest.raises(BadImage, match=r"64 images in a row cannot be read, the first: .*jpg"):
        take(pixel_batches.train_pixels(data, CROP, options(), 0), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: Cropping((512, 33)), r"\(512, 33\) pixels: .* nearest: \(513, 33\)"),
        (lambda data: Cropping((1, 33)), r"nearest: \(17, 33\)"),
        (lambda data: Cropping((33,)), "two sides"),
        (lambda data: Cropping((33, 33), (2.0, 0.5)), "in order"),
        (lambda data: Cropping((33, 33), (0.0, 1.0)), "above 0"),
        (lambda data: Cropping((33, 33), mirrored=2.0), "expected 0 to 1"),
        (lambda data: pixel_batches.eval_pixels(data, (33, 65), options()), "a.jpg .* 40; .* 49"),
        (lambda data: pixel_batches.eval_pixels(data, (49, 49), options()), "a.jpg .* 60; .* 65"),
        (lambda data: pixel_batches.eval_pixels(data, (50, 65), options()), "expected two sides"),
        (
            lambda data: pixel_batches.train_pixels(data, CROP, options(), 0, hosts=3),
            "batch of 4 is not divisible by 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(make, message, data):
    with pytest.raises(InputError, match=message):
        make(data)
