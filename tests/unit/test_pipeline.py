"""The stream of batches: which samples, whatever the threads, hosts and start; bad images."""

import collections
import itertools
import logging
import threading

import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import decoding, host_crop, loader, pipeline
from moco_jax.data.host_crop import Region
from moco_jax.data.source import ArraySource, EncodedSource, open_source
from moco_jax.errors import BadImage

COUNT = 40


def options(**overrides):
    data = config.default().data
    data.update({"batch_size": 12, "eval_batch_size": 16, "image_size": 16, "threads": 2})
    data.processes = 1
    data.update(overrides)
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Forty images of different content and size, in two classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        path = root / f"{i % 2}" / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def encoded(root):
    return open_source(f"folder:{root}").train


@pytest.fixture(scope="module")
def array():
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 9, 1), dtype=np.uint8)
    return ArraySource("array", images, np.arange(COUNT, dtype=np.int32) % 3)


def broken(source, bad, error=None):
    """`source` with some images that cannot be read."""

    def read(index):
        if index in bad:
            if error:
                raise error
            return b"not an image", 0
        return source.read(index)

    name = "picture {}".format
    return EncodedSource("broken", len(source), read, name, source.labelled)


def random_views(content, rng, regions):
    views = np.empty((len(regions), 16, 16, 3), np.uint8)
    host_crop.random_views(content, decoding.read_header(content, 10**6), rng, regions, views)
    return views


def take(batches, count=None):
    """Batches of a stream, their crops as one array (b, V, S, S, C)."""
    with batches:
        taken = list(itertools.islice(batches, count))
    return [b | {"crops": np.stack(b["crops"], 1)} if "crops" in b else b for b in taken]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key], key)


def join(parts):
    """The global batches, from the hosts' parts of them."""
    keys = parts[0][0].keys()
    return [{key: np.concatenate([p[key] for p in hosts]) for key in keys} for hosts in zip(*parts)]


def column(batches, key):
    return np.concatenate([batch[key] for batch in batches])


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
        views = random_views(content, host_crop.generator(5, int(epoch), int(index)), regions)
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
            views = random_views(content, host_crop.generator(0, int(epoch), int(index)), regions)
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
        expected = random_views(content, rng, [region, region])
        np.testing.assert_array_equal(column(batches, "crops")[row], expected)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(set(named)) == 3
    assert any("picture 4: " + ("gone" if error else "no kind of image") in line for line in named)
    again = take(pipeline.train_batches(source, options(max_bad_share=0.2, threads=7), seed=0), 10)
    assert_same(again, batches)


def test_the_log_names_a_bounded_number(encoded, caplog):
    tally = loader._Tally(encoded, 1.0)
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
