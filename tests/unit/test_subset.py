"""Shares of labels and held-out images: balanced, the same for a seed, of every kind of source."""

import pickle

import numpy as np
import pytest

from moco_jax.data import subset
from moco_jax.data.fingerprint import fingerprint
from moco_jax.data.source import ArraySource, EncodedSource, Splits, open_source
from moco_jax.errors import InputError
from tests.folders import levels, make_folder

LABELS = np.repeat([0, 1, 2, 4], [50, 7, 1, 190]).astype(np.int32)


def array(labels=LABELS, **fields):
    images = np.arange(len(LABELS if labels is None else labels), dtype=np.uint8)
    images = images[:, None, None, None]
    return ArraySource("array", images, labels, **fields)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_as_large_a_share_of_every_class_and_at_least_one(share):
    index = subset.stratified(LABELS, share, seed=0)
    assert (np.diff(index) > 0).all()
    kept = np.bincount(LABELS[index], minlength=5)
    assert kept.tolist() == [max(1, round(share * n)) if n else 0 for n in np.bincount(LABELS)]


def test_a_share_is_of_its_seed_alone_and_random():
    labels = np.repeat(np.arange(4), 250)
    first, again, other = (subset.stratified(labels, 0.5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 200 < len(np.intersect1d(first, other)) < 300
    assert np.bincount(first // 125).min() > 40, "from anywhere in a class"


def test_held_out_images_are_not_trained_on():
    kept, held_out = subset.hold_out(array(), 0.1, seed=0)
    assert (len(kept), len(held_out)) == (223, 25)
    both = np.concatenate([kept.images, held_out.images]).ravel()
    assert sorted(both) == sorted(array().images.ravel())
    for part in (kept, held_out):
        np.testing.assert_array_equal(part.labels, LABELS[part.images.ravel().astype(int)])
    few, one = subset.hold_out(array(LABELS[:2]), 0.01, seed=0)
    assert (len(few), len(one)) == (1, 1)


def test_a_part_of_a_folder_keeps_labels_and_names(tmp_path):
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6)]
    source, _ = open_source(make_folder(tmp_path / "x", *names))
    np.testing.assert_array_equal(subset.labels_of(source), [0] * 6 + [1] * 6)
    part = subset.label_share(source, 0.5, seed=3)
    part = subset.take(part, np.array([0, 5, 2]))
    assert len(part) == 3
    found = pickle.loads(pickle.dumps(part))
    for i, level in enumerate(levels(found)):
        assert found.item_name(i) == source.item_name(level)
        assert found.read(i)[1] == subset.labels_of(found)[i] == level // 6


def test_all_labels_means_the_source_itself():
    source = array(None)
    assert subset.label_share(source, 1.0, seed=0) is source


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_bad_shares(share):
    with pytest.raises(ValueError, match=r"label_share=.*above 0 and at most 1"):
        subset.label_share(array(), share, 0)
    with pytest.raises(ValueError, match=r"held_out=.*above 0 and below 1"):
        subset.hold_out(array(), share, 0)


def test_a_share_needs_labels():
    for source in (array(None), EncodedSource("encoded", 3, None, None)):
        with pytest.raises(ValueError, match=r"label_share=0.1 needs labels, and \w+ has none"):
            subset.label_share(source, 0.1, 0)


def test_counts_classes():
    assert subset.count_classes(array()) == 5
    assert subset.count_classes(array(class_names=tuple("abcdefg"))) == 7
    assert subset.count_classes(array(None)) == 0
    encoded = EncodedSource("encoded", 3, None, None, True, ("a", "b"))
    assert subset.count_classes(encoded) == 2


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_a_share_of_every_class_becomes_test_images(kind, tmp_path):
    if kind == "array":
        splits = Splits(array(class_names=tuple("abcde")), None)
    else:
        counts = zip("abcd", (20, 7, 1, 5))
        files = [f"{name}/{i}.png" for name, count in counts for i in range(count)]
        splits = open_source(make_folder(tmp_path / "images", *files), str(tmp_path / "cache"))
    before = subset.labels_of(splits.train)
    train, test = subset.with_test(splits, 0.2, 3)
    labels = [subset.labels_of(part) for part in (train, test)]
    counts = [np.bincount(x, minlength=before.max() + 1) for x in labels]
    np.testing.assert_array_equal(sum(counts), np.bincount(before))
    wanted = [min(max(1, round(0.2 * n)), n - 1) if n else 0 for n in np.bincount(before)]
    assert counts[1].tolist() == wanted
    names = [{part.item_name(i) for i in range(len(part))} for part in (train, test)]
    assert not names[0] & names[1]
    assert f"; held out {len(test)} of {len(before)}, 0.2 of every class by seed 3" in test.name
    assert train.understood.notes[-1] == f"test images are {test.name.partition('held out ')[2]}"
    for part, count in zip((train, test), counts):
        assert part.understood.images == len(part)
        assert list(part.understood.classes.values()) == count.tolist()
    again, other = (subset.with_test(splits, 0.2, seed)[1] for seed in (3, 4))
    np.testing.assert_array_equal(*([x.item_name(i) for i in range(len(x))] for x in (again, test)))
    assert {other.item_name(i) for i in range(len(other))} != names[1]
    if kind == "folder":
        found = fingerprint(Splits(train, test))
        moved = (tmp_path / "images").rename(tmp_path / "moved")
        splits = open_source(f"folder:{moved}", str(tmp_path / "cache"))
        assert fingerprint(subset.with_test(splits, 0.2, 3)) == found


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (Splits(array(), array()), r"test_share=0.2: array has test images of its own \(array\)"),
        (Splits(array(None), None), "needs labels, and array has none"),
        (Splits(array(np.arange(9, dtype=np.int32)), None), "no class of array has two labelled"),
    ],
)
def test_shares_that_cannot_be_held_out(splits, message):
    with pytest.raises(InputError, match=message):
        subset.with_test(splits, 0.2, 0)
