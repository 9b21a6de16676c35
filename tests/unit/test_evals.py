"""Features of a source, and kNN of them."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax import config, files, results
from moco_jax.data import pipeline
from moco_jax.data.source import ArraySource, Splits
from moco_jax.errors import NotFiniteError
from moco_jax.evals import confusion
from moco_jax.evals.extraction import extract, feature_batches
from moco_jax.evals.knn_accuracy import evaluate, score
from moco_jax.evals.knn_monitor import KnnMonitor
from moco_jax.evals.knn_options import pairs_of
from moco_jax.mesh import make_mesh
from moco_jax.ops.neighbours import Neighbours

DATA = config.default().data
DATA.update(eval_batch_size=8)


def make_source(count=21, labels=True, classes=3):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, classes, count).astype(np.int32)
    images = rng.integers(0, 100, (count, 4, 4, 1))
    images[np.arange(count), kinds % 4, kinds // 4] += 100
    return ArraySource("toy", images.astype(np.uint8), kinds if labels else None)


@jax.jit
def encode(batch):
    return batch["image"].reshape(len(batch["image"]), -1).astype(jnp.float32)


def batches(source, limit=0):
    return pipeline.eval_batches(source, DATA, limit)


def knn_options(**overrides):
    options = config.default().knn
    options.update(k=3, ks=(1, 5), temperatures=(), **overrides)
    return options


def test_features_come_in_order_without_padding():
    source = make_source()
    features, labels = extract(encode, batches(source))
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, source.images.reshape(21, -1))
    np.testing.assert_array_equal(labels, source.labels)


def test_batches_of_features_tell_which_images_they_are():
    parts = list(feature_batches(encode, batches(make_source(), limit=10)))
    assert [len(part.index) for part in parts] == [8, 2]
    np.testing.assert_array_equal(
        np.concatenate([part.index for part in parts]), pipeline.evenly(21, 10)
    )


def test_features_that_are_not_finite_name_their_images():
    def broken(batch):
        index = batch["index"][:, None]
        return jnp.where((index == 3) | (index == 7) | (index < 0), jnp.nan, encode(batch))

    with pytest.raises(NotFiniteError, match="of image 3, 7") as error:
        extract(broken, batches(make_source()))
    assert error.value.index == [3, 7]


def test_padding_may_be_anything():
    padded = lambda batch: jnp.where(batch["mask"][:, None], encode(batch), jnp.nan)  # noqa: E731
    assert len(extract(padded, batches(make_source()))[0]) == 21


def test_no_image_is_an_error():
    """As where none of the images of a split can be read."""
    with pytest.raises(ValueError, match="no image to take features of"):
        extract(encode, batches(make_source(0)))


def test_scores_of_lists_of_k_and_temperature():
    found = Neighbours(
        np.array([[1.0, 0.9, 0.9], [1.0, 0.2, 0.1]]), np.array([[0, 1, 2], [3, 4, 5]])
    )
    labels = np.array([0, 6, 6, 1, 2, 2])
    scores = score(found, labels, np.array([6, 1]), [(1, 0.1), (3, 0.01), (3, 1.0)])
    # At a high temperature two distant neighbours outvote a near one.
    assert [s.top1 for s in scores] == [0.5, 0.5, 1.0]
    assert [s.top5 for s in scores] == [0.5, 1.0, 1.0]


def test_a_label_that_the_bank_lacks_is_never_right():
    found = Neighbours(np.ones((3, 1)), np.zeros((3, 1), int))
    (only,) = score(found, np.array([1, 0]), np.array([1, 5, -1]), [(1, 0.07)])
    assert only.top1 == pytest.approx(1 / 3)
    assert only.top5 is None


def test_the_confusion_has_the_right_ones_on_its_diagonal():
    rng = np.random.default_rng(0)
    found = Neighbours(
        np.sort(rng.random((50, 6)).astype(np.float32))[:, ::-1], rng.integers(0, 30, (50, 6))
    )
    labels, truth = rng.integers(-1, 4, 30), rng.integers(0, 5, 50)
    counts = confusion.confuse(found, labels, truth, 5, 0.1)
    (only,) = score(found, labels, truth, [(5, 0.1)])
    assert counts.sum(1).tolist() == np.bincount(truth, minlength=5).tolist()
    assert np.trace(counts) / 50 == only.top1
    for true, voted in ((0, 1), (3, 2)):
        votes = np.zeros((50, 5))
        for j in range(5):
            known = labels[found.index[:, j]] >= 0
            votes[known, labels[found.index[known, j]]] += np.exp(found.cosine[known, j] / 0.1)
        assert counts[true, voted] == np.sum((truth == true) & (votes.argmax(1) == voted))
    assert confusion.confuse(found, labels, np.full(50, 1000), 5, 0.1) is None, (
        "of too many classes"
    )


def test_test_images_are_the_queries_where_they_have_labels():
    train = make_source(30)
    test = ArraySource("toy", train.images[:10], train.labels[:10])
    run = partial(evaluate, encode, batches=batches, knn=knn_options(), mesh=make_mesh())
    outcome = run(data=Splits(train, test))
    assert (outcome.bank, outcome.examples, outcome.split) == (30, 10, "toy")
    assert [(s.k, s.temperature) for s in outcome.scores] == [(3, 0.07), (1, 0.07), (5, 0.07)]
    assert outcome.scores[1].top1 == 1.0, "each of them is in the bank"
    for splits in (Splits(train, None), Splits(train, make_source(10, labels=False))):
        outcome = run(data=splits)
        assert (outcome.examples, outcome.split) == (30, "toy, one left out")
        assert 0.5 < outcome.scores[1].top1 < 1.0


def test_k_is_at_most_the_neighbours_that_there_are():
    options = knn_options()
    options.update(k=200, max_train=4)
    data = Splits(make_source(), make_source(5))
    outcome = evaluate(encode, data, batches, options, make_mesh())
    assert [s.k for s in outcome.scores] == [4, 1]


def test_no_labels_is_an_error_of_the_evaluation_and_silences_the_monitor(caplog):
    data = Splits(make_source(labels=False), None)
    with pytest.raises(ValueError, match="toy has no labels"):
        evaluate(encode, data, batches, knn_options(), make_mesh())
    with caplog.at_level(logging.INFO):
        monitor = KnnMonitor(knn_options(), data, batches, make_mesh())
    assert monitor.measure("knn_top1", encode) == {}
    assert "No labels" in caplog.text


def test_the_monitor_keeps_its_last_measurement(tmp_path):
    data = Splits(make_source(50, classes=7), None)
    monitor = KnnMonitor(knn_options(), data, batches, make_mesh())
    monitor.save(tmp_path, "untrained", "backbone", 1)
    assert results.read(tmp_path) == []
    row = monitor.measure("knn_top1", encode)
    monitor.save(tmp_path, "step 7", "backbone", 1)
    saved = results.read(tmp_path)
    assert [r["settings"]["k"] for r in saved] == [3, 1, 5]
    assert saved[0]["metrics"]["top1"] == row["knn_top1"] < saved[0]["metrics"]["top5"] <= 1
    assert (saved[0]["seed"], saved[0]["settings"]["encoder"]) == (1, "step 7")
    assert (saved[0]["examples"], saved[0]["split"]) == (50, "toy, one left out")
    monitor.save_confusion(tmp_path)
    counts = files.read_arrays(tmp_path / confusion.FILE)["counts"]
    assert np.trace(counts) / 50 == row["knn_top1"]


def test_a_diverged_network_does_not_end_the_run(tmp_path, caplog):
    monitor = KnnMonitor(knn_options(), Splits(make_source(), None), batches, make_mesh())
    row = monitor.measure("knn_top1", lambda batch: encode(batch) * jnp.nan)
    assert np.isnan(row["knn_top1"])
    assert "NaN" in caplog.text
    monitor.save(tmp_path, "step 7", "backbone", 1)
    assert results.read(tmp_path) == []


@pytest.mark.parametrize(
    "bad", [{"k": -1}, {"ks": (5, -1)}, {"temperature": 0.0}, {"temperatures": (float("nan"),)}]
)
def test_bad_options(bad):
    options = knn_options()
    options.update(bad)
    with pytest.raises(ValueError, match="expected above 0"):
        pairs_of(options)


def test_unknown_features_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'projection'"):
        pairs_of(knn_options(features="projector"))
