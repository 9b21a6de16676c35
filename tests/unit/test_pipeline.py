"""The stream of batches: which samples, whatever the threads, hosts and start."""

import collections
import itertools
import threading

import numpy as np
import pytest

from moco_jax import config
from moco_jax.data import host_crop, loader, pipeline
from moco_jax.data.host_crop import Region
from moco_jax.data.source import ArraySource, EncodedSource, open_source
from tests.encoded import random_views
from tests.streams import (
    COUNT,
    assert_same,
    column,
    join,
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


# The order


def test_each_epoch_holds_each_image_once_in_another_order(source):
    batches = take(pipeline.train_batches(source, options(), seed=3), 10)
    index, epoch = column(batches, "index"), column(batches, "epoch")
    np.testing.assert_array_equal(epoch, np.arange(120) // COUNT)
    orders = [index[epoch == e] for e in range(3)]
    for e, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(COUNT))
        np.testing.assert_array_equal(order, pipeline.sample_order(3, e, COUNT))
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))
    assert not np.array_equal(orders[0], pipeline.sample_order(4, 0, COUNT))


def test_batches_have_the_contracts_form(encoded, array):
    for source, entry, shape in (
        (encoded, "crops", (12, 2, 16, 16, 3)),
        (array, "image", (12, 8, 9, 1)),
    ):
        (batch,) = take(pipeline.train_batches(source, options(), seed=0), 1)
        assert batch.keys() == {entry, "index", "epoch", "label"}
        assert (batch[entry].shape, batch[entry].dtype) == (shape, np.uint8)
        assert {batch[key].dtype for key in ("index", "epoch", "label")} == {np.dtype(np.int32)}
        assert batch["index"].shape == batch["epoch"].shape == batch["label"].shape == (12,)


def test_rows_hold_the_image_and_label_of_their_index(encoded, array):
    data = options(view1=config.view(crop_area=(0.5, 0.6)))
    (batch,) = take(pipeline.train_batches(encoded, data, seed=5, start_step=2), 1)
    regions = [
        Region((0.5, 0.6), (3 / 4, 4 / 3)),
        Region((0.2, 1.0), (3 / 4, 4 / 3)),
    ]
    for image, index, epoch, label in zip(*batch.values()):
        content, expected = encoded.read(int(index))
        views = random_views(content, host_crop.generator(5, int(epoch), int(index)), regions, 16)
        np.testing.assert_array_equal(image, views)
        assert label == expected
    (batch,) = take(pipeline.train_batches(array, options(), seed=5), 1)
    np.testing.assert_array_equal(batch["image"], array.images[batch["index"]])
    np.testing.assert_array_equal(batch["label"], array.labels[batch["index"]])


def test_the_same_image_is_cropped_anew_in_each_epoch(encoded):
    batches = take(pipeline.train_batches(encoded, options(), seed=0), 7)
    index, images = column(batches, "index"), column(batches, "crops")
    first, second = np.flatnonzero(index == index[0])[:2]
    assert np.abs(images[first].astype(int) - images[second]).mean() > 1


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_stream_can_start_at_any_step(source, start):
    whole = take(pipeline.train_batches(source, options(), seed=1), 9)
    assert_same(take(pipeline.train_batches(source, options(), 1, start), 9 - start), whole[start:])


def test_starting_late_costs_nothing_more(array, monkeypatch):
    made = collections.Counter()
    order = pipeline.sample_order

    def counted(seed, epoch, n):
        made[epoch] += 1
        return order(seed, epoch, n)

    monkeypatch.setattr(pipeline, "sample_order", counted)
    take(pipeline.train_batches(array, options(), 0, start_step=10**9), 20)
    assert min(made) == 12 * 10**9 // COUNT
    assert set(made.values()) == {1}  # each epoch's order is made once


@pytest.mark.parametrize("threads", [1, 3, 13])
def test_any_number_of_threads_gives_the_same_batches(encoded, threads):
    expected = take(pipeline.train_batches(encoded, options(), seed=2), 5)
    data = options(threads=threads, prefetch=threads)
    assert_same(take(pipeline.train_batches(encoded, data, seed=2), 5), expected)


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_make_their_parts_of_the_same_batches(source, hosts):
    whole = take(pipeline.train_batches(source, options(), seed=2), 5)
    parts = [
        take(pipeline.train_batches(source, options(), 2, host=host, hosts=hosts), 5)
        for host in range(hosts)
    ]
    assert_same(join(parts), whole)
    with pytest.raises(ValueError, match=r"12 is not divisible by 5 hosts; 10 is"):
        pipeline.train_batches(source, options(), 2, host=0, hosts=5)


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_two_epochs_over_all_hosts_hold_each_image_twice(source, hosts):
    steps = range(2 * COUNT // 4)
    data = options(batch_size=12 if hosts == 3 else 4)
    parts = [take(pipeline.train_batches(source, data, 7, host=h, hosts=hosts), len(steps))
             for h in range(hosts)]  # fmt: skip
    rows = np.array(
        [(e, i) for part in parts for b in part for e, i in zip(b["epoch"], b["index"])]
    )
    for epoch in range(2):
        seen = rows[rows[:, 0] == epoch][:, 1]
        np.testing.assert_array_equal(np.sort(seen), np.arange(COUNT))


def test_a_run_goes_on_with_other_hosts_and_threads_as_it_would_have(source):
    whole = take(pipeline.train_batches(source, options(), seed=4), 8)
    parts = [take(pipeline.train_batches(source, options(threads=1), 4, 5, host=h, hosts=3), 3)
             for h in range(3)]  # fmt: skip
    assert_same(join(parts), whole[5:])


def test_batches_that_are_kept_are_not_overwritten(encoded):
    batches = take(pipeline.train_batches(encoded, options(prefetch=1), 0), 12)
    for batch in batches[:2]:
        for image, index, epoch in zip(batch["crops"], batch["index"], batch["epoch"]):
            content, _ = encoded.read(int(index))
            regions = [Region((0.2, 1.0), (3 / 4, 4 / 3))] * 2
            views = random_views(
                content, host_crop.generator(0, int(epoch), int(index)), regions, 16
            )
            np.testing.assert_array_equal(image, views)


def test_the_pixels_of_an_array_can_stay_where_they_are(array):
    (batch,) = take(pipeline.train_batches(array, options(), 0, pixels=False), 1)
    (full,) = take(pipeline.train_batches(array, options(), 0), 1)
    assert_same([batch], [{key: full[key] for key in ("index", "epoch", "label")}])


def test_the_transfer_runs_in_the_thread(array):
    threads = []

    def put(batch):
        threads.append(threading.current_thread())
        return batch | {"sent": True}

    (batch,) = take(pipeline.train_batches(array, options(), 0, put=put), 1)
    assert batch["sent"]
    assert threading.current_thread() not in threads


# Evaluation


@pytest.mark.parametrize("limit", [0, 1, 16, 23, 1000])
def test_evaluation_drops_nothing_and_masks_padding(source, limit):
    batches = take(pipeline.eval_batches(source, options(), limit))
    mask, index = column(batches, "mask"), column(batches, "index")
    expected = pipeline.evenly(COUNT, limit)
    assert len(expected) == min(limit or COUNT, COUNT)
    np.testing.assert_array_equal(index[mask], expected)
    assert (index[~mask] == -1).all()
    assert (column(batches, "label")[~mask] == -1).all()
    assert all(len(batch["index"]) == 16 for batch in batches)
    entry = "crops" if isinstance(source, EncodedSource) else "image"
    assert all(len(batch[entry]) == 16 for batch in batches)
    assert len(batches) == -(-len(expected) // 16)
    assert batches[0].keys() == {entry, "index", "label", "mask"}
    assert mask.dtype == bool


def test_evaluation_may_start_anywhere(source):
    whole = column(take(pipeline.eval_batches(source, options())), "index")
    later = column(take(pipeline.eval_batches(source, options(), start=5)), "index")
    np.testing.assert_array_equal(later[later >= 0], whole[whole >= 0][5:])


def test_evenly_spaced_means_from_end_to_end():
    assert pipeline.evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert pipeline.evenly(3, 3).tolist() == [0, 1, 2]


def test_evaluation_sees_the_middle_of_each_image(encoded, array):
    data = options(eval_crop_share=0.5)
    batches = take(pipeline.eval_batches(encoded, data, 5))
    for crops, index, label in zip(*(batches[0][key][:5] for key in ("crops", "index", "label"))):
        content, expected = loader.read(encoded, int(index), 10**6)
        np.testing.assert_array_equal(crops[0], host_crop.center_crop(content, 16, 0.5))
        assert label == expected
    batches = take(pipeline.eval_batches(array, data))
    mask = column(batches, "mask")
    np.testing.assert_array_equal(column(batches, "image")[mask], array.images)
    np.testing.assert_array_equal(column(batches, "label")[mask], array.labels)


def test_hosts_share_the_evaluation(source):
    whole = take(pipeline.eval_batches(source, options()))
    parts = [take(pipeline.eval_batches(source, options(), host=h, hosts=2)) for h in range(2)]
    assert_same(join(parts), whole)


def test_a_crop_share_above_one_is_refused(encoded):
    with pytest.raises(ValueError, match=r"eval_crop_share=1.2: expected in \(0, 1\]"):
        pipeline.eval_batches(encoded, options(eval_crop_share=1.2))


def test_images_without_labels_have_minus_one(array):
    unlabelled = ArraySource("array", array.images)
    for batches in (pipeline.train_batches(unlabelled, options(), 0), pipeline.eval_batches):
        batches = (
            batches if batches is not pipeline.eval_batches else batches(unlabelled, options())
        )
        assert (take(batches, 1)[0]["label"] == -1).all()
