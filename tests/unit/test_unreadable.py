"""Streams with images that cannot be read, and what is checked before a run."""

import logging
import threading

import numpy as np
import pytest

from moco_jax.data import host_crop, loader, pipeline
from moco_jax.data.host_crop import Region
from moco_jax.data.source import ArraySource, open_source
from moco_jax.errors import BadImage
from tests.encoded import random_views
from tests.streams import (
    COUNT,
    assert_same,
    broken,
    column,
    make_array,
    options,
    take,
    write_images,
)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    return open_source(f"folder:{write_images(tmp_path_factory.mktemp('images'))}").train


@pytest.fixture(scope="module")
def array():
    return make_array()


@pytest.fixture(params=["encoded", "array"])
def source(request):
    return request.getfixturevalue(request.param)


# Images that cannot be read


@pytest.mark.parametrize("error", [None, FileNotFoundError("gone")])
def test_a_bad_image_gives_way_to_the_next_and_is_named_once(encoded, caplog, error):
    bad = {4, 5, COUNT - 1}
    source = broken(encoded, bad, error)
    data = options(max_bad_share=0.2)
    with caplog.at_level(logging.WARNING):
        batches = take(pipeline.train_batches(source, data, seed=0), 10)
    wanted = np.concatenate([pipeline.sample_order(0, e, COUNT) for e in range(3)])
    used = np.array([{4: 6, 5: 6, COUNT - 1: 0}.get(i, i) for i in wanted.tolist()])
    np.testing.assert_array_equal(column(batches, "index"), used)
    np.testing.assert_array_equal(column(batches, "label"), used >= COUNT // 2)
    for row in np.flatnonzero(used != wanted)[:2]:
        content, _ = encoded.read(int(used[row]))
        rng = host_crop.generator(0, int(row) // COUNT, int(used[row]))
        region = Region((0.2, 1.0), (3 / 4, 4 / 3))
        expected = random_views(content, rng, [region, region], 16)
        np.testing.assert_array_equal(column(batches, "crops")[row], expected)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(set(named)) == 3
    assert any("picture 4: " + ("gone" if error else "no kind of image") in line for line in named)
    again = take(pipeline.train_batches(source, options(max_bad_share=0.2, threads=7), seed=0), 10)
    assert_same(again, batches)


def test_the_log_names_a_bounded_number(encoded, caplog):
    tally = loader.Tally(encoded, 1.0)
    with caplog.at_level(logging.WARNING):
        for i in range(100):
            tally.count([loader.Loaded(0, 0, (f"picture {i}",))])
    assert len(caplog.records) == 20
    assert "no others will be named" in caplog.records[-1].getMessage()


def test_too_large_a_share_ends_the_stream(encoded):
    source = broken(encoded, {1, 11, 21})
    with pytest.raises(BadImage, match=r"3 of 5\d images of broken.*max_bad_share=0.05.*pict"):
        take(pipeline.train_batches(source, options(max_bad_share=0.05), seed=0), 20)
    # 3 of 43 reads: below a limit of 8%, for ever.
    assert len(take(pipeline.train_batches(source, options(max_bad_share=0.08), seed=0), 20)) == 20


def test_a_few_bad_images_at_the_start_are_no_reason_to_stop(encoded):
    first = set(pipeline.sample_order(0, 0, COUNT)[:2].tolist())
    source = broken(encoded, first)
    assert len(take(pipeline.train_batches(source, options(max_bad_share=0.08), seed=0), 1)) == 1


def test_a_batch_without_one_good_image_ends_the_stream_at_once(encoded):
    source = broken(encoded, set(pipeline.sample_order(0, 0, COUNT)[:12].tolist()))
    with pytest.raises(BadImage, match="cannot be read"):
        take(pipeline.train_batches(source, options(max_bad_share=0.9), seed=0), 1)


def test_nothing_readable_ends_the_stream(encoded):
    source = broken(encoded, set(range(COUNT)))
    with pytest.raises(BadImage, match="64 images in a row cannot be read, the first: pict"):
        take(pipeline.train_batches(source, options(max_bad_share=1.0), seed=0), 1)


def test_too_large_images_are_named_and_give_way(encoded, caplog):
    data = options(max_pixels=58 * 30, max_bad_share=0.05)  # the last one has 59 rows
    with caplog.at_level(logging.WARNING):
        batches = take(pipeline.train_batches(encoded, data, seed=0), 5)
    assert "30 x 59 pixels; expected 1 to data.max_pixels=1740" in caplog.text
    assert COUNT - 1 not in column(batches, "index")
    assert COUNT - 1 not in column(take(pipeline.eval_batches(encoded, data)), "index")


def test_evaluation_masks_bad_images(encoded):
    source = broken(encoded, {0, 7})
    batches = take(pipeline.eval_batches(source, options(max_bad_share=0.1)))
    index = column(batches, "index")[column(batches, "mask")]
    np.testing.assert_array_equal(index, np.setdiff1d(np.arange(COUNT), [0, 7]))
    with pytest.raises(BadImage, match="2 of 40 images"):
        take(pipeline.eval_batches(source, options(max_bad_share=0.01)))


def test_other_errors_are_not_taken_for_bad_images(encoded):
    source = broken(encoded, {3}, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        take(pipeline.train_batches(source, options(), seed=0), 4)


def test_no_thread_is_left_behind(encoded):
    before = set(threading.enumerate())
    take(pipeline.train_batches(encoded, options(threads=5), seed=0), 2)
    take(pipeline.eval_batches(encoded, options()))
    with pytest.raises(BadImage):
        take(pipeline.train_batches(broken(encoded, set(range(COUNT))), options(), seed=0))
    assert set(threading.enumerate()) <= before


# Checks before a run


def test_a_set_smaller_than_a_batch_is_refused(source):
    pipeline.check(source, options(), COUNT)
    with pytest.raises(ValueError, match=r"40 images, fewer than data.batch_size=41; .* is 40"):
        pipeline.check(source, options(), COUNT + 1)


def test_a_set_without_a_readable_image_is_refused(encoded):
    with pytest.raises(BadImage, match="none of 16 images of broken can be read: picture 0"):
        pipeline.check(broken(encoded, set(range(COUNT))), options())
    pipeline.check(broken(encoded, set(range(COUNT - 3))), options())


def test_channel_statistics(encoded, array):
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert pipeline.channel_stats(encoded, options()) == imagenet
    mean, std = pipeline.channel_stats(array, options())
    np.testing.assert_allclose(mean, [array.images.mean() / 255])
    np.testing.assert_allclose(std, [array.images.std() / 255])
    given = options(mean=(0.5,), std=(0.25,))
    assert pipeline.channel_stats(array, given) == ((0.5,), (0.25,))
    constant = ArraySource("black", np.zeros((3, 2, 2, 2), np.uint8))
    assert pipeline.channel_stats(constant, options()) == ((0, 0), (1 / 255, 1 / 255))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (), "expected 1 numbers in each"),
        ((0.5, 0.5), (0.2, 0.2), "expected 1 numbers in each"),
        ((0.5,), (0.0,), "expected numbers above 0"),
    ],
)
def test_wrong_channel_statistics_are_refused(array, mean, std, message):
    with pytest.raises(ValueError, match=message):
        pipeline.channel_stats(array, options(mean=mean, std=std))
