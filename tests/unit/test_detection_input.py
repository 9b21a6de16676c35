"""Annotated images on canvases, and their batches."""

import functools

import numpy as np
import pytest

from moco_jax.data import pipeline
from moco_jax.detection import batches, framing, masks
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.framing import Drawn, Framing
from moco_jax.errors import BadImage, InputError
from tests import annotations, streams
from tests.streams import assert_same, column, join, take

NAMES = "abcdefghij"
TRAINING = Framing((48, 64), (16, 24, 32), 64, mirrored=0.5, boxes=3)
TESTING = Framing((48, 64), (24,), 64, boxes=2)


options = functools.partial(streams.options, batch_size=4, eval_batch_size=4, max_bad_share=0.5)


@pytest.mark.parametrize(
    ("height", "width", "side", "wanted"),
    [
        (480, 640, 800, (800, 1067)),
        (375, 500, 480, (480, 640)),
        (300, 1000, 800, (400, 1333)),
        (1000, 300, 800, (1333, 400)),
        (1, 5000, 800, (1, 1333)),
        (500, 333, 608, (913, 608)),
    ],
)
def test_sizes_are_those_of_resize_shortest_edge(height, width, side, wanted):
    assert framing.resized_shape(Framing((1344, 1344), (side,)), height, width, side) == wanted


def test_an_image_that_the_canvas_does_not_hold_is_made_smaller():
    assert framing.resized_shape(Framing((100, 60), (90,)), 480, 640, 90) == (45, 60)


def scene():
    """A dark image with a bright rectangle, its box, outline and two keypoints."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:20, 36:54] = 200
    outline = masks.read_shape([[36, 8, 54, 8, 36, 20]], 40, 60)
    image = annotations.annotated(40, 60, [[36, 8, 54, 20]], [2], shapes=(outline,), keypoints=3)
    image.keypoints[0] = [[36, 8, 2], [54, 20, 1], [0, 0, 0]]
    return pixels, image


@pytest.mark.parametrize("mirror", [False, True])
def test_boxes_bits_and_keypoints_go_with_the_image(mirror):
    wanted = Framing((100, 160), (80,), boxes=3, bits=True)
    out = framing.onto_canvas(*scene(), wanted, Drawn(80, mirror), [1, 0, 2])
    assert out["image"].shape == (100, 160, 3)
    assert (out["size"].tolist(), out["whole"].tolist()) == ([80, 120], [40, 60])
    x1, y1, x2, y2 = out["boxes"][0].tolist()
    assert (x1, y1, x2, y2) == ((12, 16, 48, 40) if mirror else (72, 16, 108, 40))
    bright = np.argwhere(out["image"][..., 0] > 100)
    assert (bright.min(0) == (y1, x1)).all()
    assert (bright.max(0) + 1 == (y2, x2)).all()
    assert not out["image"][80:].any()
    assert not out["image"][:, 120:].any()
    assert (out["there"].tolist(), out["classes"].tolist()) == ([True, False, False], [2, -1, -1])
    # The triangle's right angle is at the rectangle's left, upper corner, a mirror's right one.
    assert out["bits"].shape == (3, 112, 112)
    bits = out["bits"][0][:, ::-1] if mirror else out["bits"][0]
    assert bits[:50, :50].all()
    assert not bits[60:, 60:].any()
    left, right, none = out["keypoints"][0].tolist()
    assert none == [0, 0, 0]
    if mirror:
        left, right = right, left
        assert (left, right) == ([48, 16, 2], [12, 40, 1])
    else:
        assert (left, right) == ([72, 16, 2], [108, 40, 1])


def test_boxes_go_back_to_the_whole_image():
    out = framing.onto_canvas(*scene(), Framing((70, 160), (67,)), Drawn(67, False), ())
    boxes = framing.back(out["boxes"][:1], out["size"], out["whole"])
    np.testing.assert_allclose(boxes, [[36, 8, 54, 20]], rtol=1e-6)
    past = framing.back(np.array([[-9, 5, 999, 999]], np.float32), out["size"], out["whole"])
    np.testing.assert_allclose(past[0, [0, 2, 3]], [0, 60, 40])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    annotations.voc(root, NAMES)
    return open_annotated(f"voc:{root}").train


def test_batches_depend_on_seed_and_step_alone(data):
    whole = take(batches.train_batches(data, TRAINING, options(), 3), 6)
    order = np.concatenate([pipeline.sample_order(3, epoch, 10) for epoch in range(3)])[:24]
    np.testing.assert_array_equal(column(whole, "index"), order)
    assert_same(take(batches.train_batches(data, TRAINING, options(threads=5), 3, 4), 2), whole[4:])
    parts = [take(batches.train_batches(data, TRAINING, options(), 3, host=h, hosts=2), 6)
             for h in (0, 1)]  # fmt: skip
    assert_same(join(parts), whole)
    other = take(batches.train_batches(data, TRAINING, options(), 4), 6)
    assert any((a["index"] != b["index"]).any() for a, b in zip(whole, other))


def test_sizes_and_mirrors_are_drawn_evenly():
    drawn = [framing.draw(TRAINING, 0, epoch, i) for epoch in range(3) for i in range(500)]
    assert drawn[0] == framing.draw(TRAINING, 0, 0, 0)
    sides = np.bincount([one.side for one in drawn])
    assert (np.abs(sides[[16, 24, 32]] - 500) < 70).all()
    assert abs(np.mean([one.mirror for one in drawn]) - 0.5) < 0.05
    again = [framing.draw(TRAINING, 1, epoch, i) for epoch in range(3) for i in range(500)]
    assert np.mean([one == other for one, other in zip(drawn, again)]) < 0.3


def test_evaluation_sees_each_image_once_and_pads(data):
    found = take(batches.eval_batches(data, TESTING, options()), 9)
    assert [b["mask"].sum() for b in found] == [4, 4, 2]
    index = np.concatenate([b["index"][b["mask"]] for b in found])
    np.testing.assert_array_equal(index, np.arange(10))
    assert not found[-1]["there"][2:].any()
    assert not found[-1]["image"][2:].any()
    assert all("epoch" not in b for b in found)


def test_an_image_that_cannot_be_read_gives_way_or_is_padding(tmp_path, caplog):
    annotations.voc(tmp_path, NAMES)
    data = open_annotated(f"voc:{tmp_path}").train
    for name in "cd":
        (tmp_path / "JPEGImages" / f"{name}.jpg").write_bytes(b"\xff\xd8 cut short")
    # A whole epoch and more: what is made ahead may not have been named yet.
    order = np.concatenate([pipeline.sample_order(0, epoch, 10) for epoch in (0, 1)])
    found = take(batches.train_batches(data, TRAINING, options(), 0), 3)
    wanted = np.where((order == 2) | (order == 3), 4, order)[:12]
    np.testing.assert_array_equal(column(found, "index"), wanted)
    sides = [framing.draw(TRAINING, 0, row // 10, i).side for row, i in enumerate(wanted.tolist())]
    assert np.concatenate([b["size"] for b in found]).min(1).tolist() == sides
    assert "skipped an image that cannot be read: c.jpg" in caplog.text
    shown = take(batches.eval_batches(data, TESTING, options()), 3)
    assert column(shown, "index").tolist() == [
        0, 1, -1, -1, 4, 5, 6, 7, 8, 9, -1, -1,
    ]  # fmt: skip
    with pytest.raises(BadImage, match=r"2 of 1\d images of voc:.*one of them: c.jpg"):
        take(batches.eval_batches(data, TESTING, options(max_bad_share=0.1)), 3)
    for file in (tmp_path / "JPEGImages").iterdir():
        file.write_bytes(b"")
    with pytest.raises(BadImage, match=r"64 images in a row cannot be read, the first: .*jpg"):
        take(batches.train_batches(data, TRAINING, options(), 0), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: Framing((0, 9), (8,)), "above 0"),
        (lambda data: Framing((9, 9), ()), "short sides"),
        (lambda data: Framing((9, 9), (8,), mirrored=2.0), "expected 0 to 1"),
        (lambda data: Framing((9, 9), (8,), boxes=1).checked(data), "boxes=1: a.jpg has 2"),
        (lambda data: batches.eval_batches(data, TRAINING, options()), "expected one short side"),
        (
            lambda data: batches.train_batches(data, TRAINING, options(), 0, hosts=3),
            "batch of 4 is not divisible by 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(make, message, data):
    with pytest.raises(InputError, match=message):
        make(data)
