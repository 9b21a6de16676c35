"""Labels that some images lack, or that are all the same: used where they mean something."""

import dataclasses
import logging

import numpy as np
import pytest

from moco_jax import results
from moco_jax.data import subset, tfds
from moco_jax.data.source import NOTHING, Splits, open_source
from moco_jax.errors import InputError
from moco_jax.evals.knn_accuracy import evaluate
from moco_jax.evals.knn_monitor import KNN, KnnMonitor
from moco_jax.mesh import make_mesh
from moco_jax.training import experiment
from moco_jax.training.context import make_context
from tests.tiny import finetune_config, probe_config, tiny_config, write_npz
from tests.unit.test_evals import batches, encode, knn_options


def pixels(state, batch):
    return encode(batch)


def hide(tmp_path, train=0, test=0, images=80, test_images=24):
    """Images of three classes, of which the first so many have no label."""
    write_npz(tmp_path / "all.npz", images=images, test_images=test_images)
    arrays = dict(np.load(tmp_path / "all.npz"))
    arrays["labels"][:train] = -1
    if test_images:
        arrays["test_labels"][:test] = -1
    np.savez(tmp_path / "x.npz", **arrays)
    return f"npz:{tmp_path}/x.npz"


@pytest.mark.parametrize(
    ("train", "test", "bank", "queries", "alone"),
    [(0, 0, 80, 24, False), (30, 0, 50, 24, False), (0, 10, 80, 14, False), (30, 10, 50, 14, False),
     (0, 24, 80, 80, True), (30, 24, 50, 50, True)],
)  # fmt: skip
@pytest.mark.parametrize("before", [True, False])
def test_knn_is_of_labelled_images_only(tmp_path, train, test, bank, queries, alone, before):
    splits = open_source(hide(tmp_path, train, test))
    if before:
        splits = Splits(*map(subset.labelled_only, splits))
    found = evaluate(encode, splits, batches, knn_options(), make_mesh())
    assert (found.bank, found.examples) == (bank, queries)
    assert found.split.endswith("one left out") == alone
    np.savez(tmp_path / "only.npz", **{
        key: array[keep] for key, array, keep in _labelled(np.load(tmp_path / "x.npz"))
    })  # fmt: skip
    same = evaluate(encode, open_source(f"npz:{tmp_path}/only.npz"), batches, knn_options(),
                    make_mesh())  # fmt: skip
    assert found.scores == same.scores


def _labelled(arrays):
    for prefix in ("", "test_"):
        keep = arrays[f"{prefix}labels"] >= 0
        if keep.any():
            for key in ("images", "labels"):
                yield prefix + key, arrays[prefix + key], keep


def test_how_many_have_labels_is_said(tmp_path, caplog):
    source = open_source(hide(tmp_path, 30)).train
    with caplog.at_level(logging.INFO):
        part = subset.labelled_only(source)
    assert "50 of the 80 images of npz:" in caplog.text
    assert part.labels.min() == 0
    assert [part.item_name(i) for i in (0, 49)] == [source.item_name(30), source.item_name(79)]
    whole = open_source(hide(tmp_path)).train
    assert subset.labelled_only(whole) is whole


@pytest.mark.parametrize("make", [probe_config, finetune_config])
def test_probe_and_fine_tuning_see_labelled_images_only(tmp_path, make):
    c = make(hide(tmp_path, 30, 10))
    c.supervised.lrs = ()
    x = experiment.build(c)
    assert (len(x.data.train), len(x.data.test)) == (50, 14)
    with experiment.train_batches(x, 0) as stream:
        seen = [next(stream) for _ in range(4)]
    assert min(int(batch["label"].min()) for batch in seen) == 0
    c.data.label_share = 0.5
    assert len(experiment.build(c).data.train) == pytest.approx(25, abs=1)
    with pytest.raises(InputError, match="needs labelled test images"):
        experiment.build(make(hide(tmp_path, 0, 24)))


def test_pretraining_keeps_the_images_without_labels(tmp_path):
    c = tiny_config("v1", hide(tmp_path, 30, 24))
    x = experiment.build(c)
    assert len(x.data.train) == 80
    measure = KNN.make(make_context(x, tmp_path)._replace(encode=lambda _: pixels))
    measure(None, x.steps)
    assert {(r["settings"]["bank"], r["examples"]) for r in results.read(tmp_path)} == {(50, 50)}


def test_records_whose_labels_lack_are_read_for_them_and_others_are_not():
    class Records(list):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    hidden = Records({"label": -1 if i % 2 else 3} for i in range(1000))
    labels = tfds._labels_where_some_lack(hidden, "label")
    assert (labels.tolist().count(-1), labels.max()) == (500, 3)
    given = Records({"label": 3} for _ in range(1000))
    assert tfds._labels_where_some_lack(given, "label") is None
    assert given.reads == 16


# One class


def one_class(tmp_path, images=24):
    images = np.random.default_rng(0).integers(0, 256, (images, 12, 12, 1), np.uint8)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(len(images), int))
    return f"npz:{tmp_path}/one.npz"


def test_knn_of_one_class_is_not_measured(tmp_path, caplog):
    spec = one_class(tmp_path)
    splits = open_source(spec)
    with pytest.raises(InputError, match="are of one class, so that kNN would be right whatever"):
        evaluate(encode, splits, batches, knn_options(), make_mesh())
    monitor = KnnMonitor(knn_options(), splits, batches, make_mesh())
    assert (monitor.active, monitor.measure("top1", encode)) == (False, {})
    assert "one.npz: all labelled images are of one class" in caplog.text


def test_one_class_that_shows_late_is_not_measured_either(tmp_path, caplog):
    """Of a source whose classes were not counted."""
    spec = one_class(tmp_path)
    train = open_source(spec).train
    splits = Splits(dataclasses.replace(train, understood=NOTHING), None)
    monitor = KnnMonitor(knn_options(), splits, batches, make_mesh())
    assert monitor.active
    assert monitor.measure("top1", encode) == {}
    assert "kNN is not measured: " in caplog.text


def test_a_run_on_one_class_shows_no_accuracy(tmp_path):
    x = experiment.build(tiny_config("v3", one_class(tmp_path)))
    measure = KNN.make(make_context(x, tmp_path)._replace(encode=lambda _: pixels))
    assert measure(None, 0) == measure(None, x.steps) == {}
    assert results.read(tmp_path) == []
