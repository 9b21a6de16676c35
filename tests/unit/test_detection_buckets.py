"""Batches of images of like shape: each on the canvas of its images, by seed and step alone."""

import functools
import itertools

import numpy as np
import pytest

from moco_jax.data import pipeline
from moco_jax.detection import batches, framing, protocol
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.buckets import Buckets
from moco_jax.detection.framing import Framing
from moco_jax.errors import InputError
from tests import annotations, shapes, streams
from tests.streams import assert_same, column, join, take

WIDE, TALL, SQUARE = (48, 64), (64, 48), (64, 64)
TRAINING = Framing(WIDE, (16, 24, 48), 64, mirrored=0.5, boxes=3, others=(TALL,))
TESTING = Framing(WIDE, (48,), 64, boxes=2, others=(TALL,))
options = functools.partial(streams.options, batch_size=4, eval_batch_size=4, max_bad_share=0.5)


def buckets_of(*counts):
    """Of so many images on each canvas, in a mixed order."""
    canvas = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Buckets(canvas, tuple(np.flatnonzero(canvas == k) for k in range(len(counts))))


def index_of(buckets, steps, start=0, mine=slice(0, 4)):
    return list(itertools.islice(buckets.rows(7, start, 4, mine), steps))


@pytest.mark.parametrize(
    ("height", "width", "canvas"),
    [(480, 640, WIDE), (640, 480, TALL), (500, 500, WIDE), (480, 500, WIDE), (9, 900, WIDE)],
)
def test_an_image_comes_onto_the_canvas_that_leaves_it_largest(height, width, canvas):
    wanted = Framing(TALL, (48,), 64, others=(WIDE, SQUARE))
    if height == width:  # the first of two that are as good and as small
        wanted = Framing(WIDE, (48,), 64, others=(TALL, SQUARE))
    number = framing.best_canvas(wanted, height, width)
    assert wanted.canvases[number] == canvas
    own = framing.resized_shape(wanted.on(number), height, width, 48)
    assert own == framing.resized_shape(Framing(SQUARE, (48,), 64), height, width, 48)


def test_a_single_canvas_has_the_usual_order():
    for start in (0, 5):
        usual = pipeline.train_rows(10, 7, start, 4, slice(1, 3))
        found = index_of(Buckets.one(10), 9, start, slice(1, 3))
        for ours, theirs in zip(found, usual, strict=False):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("counts", [(30, 10), (5, 37), (11, 4, 29), (8, 8, 8, 17)])
def test_each_canvas_has_its_share_and_each_image_its_turn(counts):
    buckets, steps, total = buckets_of(*counts), 120, sum(counts)
    found = index_of(buckets, steps)
    which = np.array([np.unique(buckets.canvas[rows.index]).item() for rows in found])
    for k, own in enumerate(buckets.members):
        before = np.concatenate([[0], np.cumsum(which == k)])
        assert before.tolist() == [buckets.batches_before(s)[k] for s in range(steps + 1)]
        share = np.arange(steps + 1) * len(own) / total
        assert (np.abs(before - share) < len(counts) - 1).all()
        given = np.concatenate([rows.index for rows, at in zip(found, which) if at == k])
        epochs = np.concatenate([rows.epoch for rows, at in zip(found, which) if at == k])
        np.testing.assert_array_equal(epochs, np.arange(len(given)) // len(own))
        for epoch in range(len(given) // len(own)):
            turn = given[epoch * len(own) : (epoch + 1) * len(own)]
            np.testing.assert_array_equal(np.sort(turn), own)


@pytest.mark.parametrize("start", [1, 17, 100])
def test_the_order_follows_from_the_step_wherever_it_begins(start):
    buckets = buckets_of(11, 4, 29)
    for ours, whole in zip(index_of(buckets, 9, start), index_of(buckets, start + 9)[start:]):
        np.testing.assert_array_equal(ours, whole)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_annotated(f"voc:{write(tmp_path_factory.mktemp('voc'))}").train


def write(root):
    """Eight wide images and six tall ones."""
    annotations.voc(root, "abcdefghijklmn")
    for name in "bdfhjl":
        annotations.picture(root / "JPEGImages" / f"{name}.jpg", 60, 40)
    return root


def test_batches_are_of_one_canvas_whatever_the_hosts_and_the_start(data):
    whole = take(batches.train_batches(data, TRAINING, options(), 3), 8)
    tall = [data.images[i].height > 40 for i in column(whole, "index")]
    sizes = [batch["image"].shape[1:3] for batch in whole]
    assert [size == TALL for size in sizes for _ in range(4)] == tall
    assert {TALL, WIDE} == set(sizes)
    assert_same(take(batches.train_batches(data, TRAINING, options(threads=5), 3, 5), 3), whole[5:])
    parts = [take(batches.train_batches(data, TRAINING, options(), 3, host=h, hosts=2), 8)
             for h in (0, 1)]  # fmt: skip
    assert_same(join(parts), whole)


def test_evaluation_has_each_image_once_and_padding_of_the_same_canvas(data):
    found = take(batches.eval_batches(data, TESTING, options()), 9)
    sizes = [batch["image"].shape[1:3] for batch in found]
    assert (sizes, [b["mask"].sum() for b in found]) == ([WIDE] * 2 + [TALL] * 2, [4, 4, 4, 2])
    index = np.concatenate([b["index"][b["mask"]] for b in found])
    assert sorted(index.tolist()) == list(range(14))
    for batch in found:
        tall = [data.images[i].height > 40 for i in batch["index"][batch["mask"]]]
        assert set(tall) == {batch["image"].shape[1:3] == TALL}


def test_an_image_that_cannot_be_read_gives_way_to_one_of_its_canvas(tmp_path):
    data = open_annotated(f"voc:{write(tmp_path)}").train
    for name in "bn":  # the first of the tall ones, the last of the wide ones
        (tmp_path / "JPEGImages" / f"{name}.jpg").write_bytes(b"\xff\xd8 cut short")
    whole = column(take(batches.train_batches(data, TRAINING, options(), 3), 8), "index")
    planned = [rows.index for rows in itertools.islice(
        Buckets.of(data, TRAINING).rows(3, 0, 4, slice(0, 4)), 8)]  # fmt: skip
    planned = np.concatenate(planned)
    assert {1, 13} <= set(planned.tolist())
    wanted = np.where(planned == 1, 3, np.where(planned == 13, 0, planned))
    np.testing.assert_array_equal(whole, wanted)


def test_a_canvas_of_fewer_images_than_a_batch_is_refused(data):
    with pytest.raises(InputError, match=r"canvas \(64, 48\) fits 6 images best, fewer than .* 8"):
        batches.train_batches(data, TRAINING, options(batch_size=8), 0)
    three = Framing(WIDE, (48,), 64, boxes=3, others=(TALL, SQUARE))
    with pytest.raises(InputError, match=r"canvas \(64, 64\) fits 0 images best"):
        batches.train_batches(data, three, options(), 0)


@pytest.mark.parametrize(
    ("canvases", "message"),
    [
        (((64, 70),), r"more_canvases=\(64, 70\): expected multiples of 32.*\(64, 64\)"),
        ((64, 32), "detection.more_canvases=.*expected values, each"),
    ],
)
def test_a_canvas_that_cannot_be_is_refused(canvases, message, tmp_path):
    c = shapes.tiny_config(shapes.write(tmp_path), more_canvases=canvases)
    with pytest.raises(InputError, match=message):
        protocol.build(c)
