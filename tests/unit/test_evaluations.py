"""The registry of evaluations: which are measured, on which images, with which bank."""

import jax
import numpy as np
import pytest

from moco_jax import config
from moco_jax.evals import EVALUATIONS, make_watches
from moco_jax.evals.knn_options import default_k, resolved, watched
from moco_jax.evals.unlabelled import RANK_ME
from moco_jax.training import experiment
from moco_jax.training.context import make_context
from tests.tiny import probe_config, tiny_config, write_npz


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz", test_images=16)


def watches_of(c, tmp_path):
    x = experiment.build(c)
    return x, make_watches(make_context(x, tmp_path), x.steps_per_epoch)


def test_the_default_names_are_the_registry():
    assert config.default().evals.names == tuple(EVALUATIONS)


@pytest.mark.parametrize(
    ("make", "every"),
    [(lambda s: tiny_config("v1", s), [10, 50, 50, 50]), (probe_config, [0, 0, 10])],
)
def test_those_that_have_a_meaning_are_measured_at_their_own_intervals(
    make, every, source, tmp_path
):
    """MoCo: kNN and three without labels. A probe: kNN (off), the backbone, accuracy."""
    c = make(source)
    c.evals.names = config.EVALS
    _, watches = watches_of(c, tmp_path)
    assert [watch.every for watch in watches] == every
    assert [watch.is_due(10) for watch in watches] == [number == 10 for number in every]


def test_names_choose_and_a_wrong_one_is_refused(source, tmp_path):
    c = tiny_config("v1", source)
    c.evals.names = ("rank_me",)
    x, (watch,) = watches_of(c, tmp_path)
    row = watch.measure(experiment.fresh_state(x), 0)
    assert row.keys() == {"rank_me"}
    assert 1 <= row["rank_me"] <= 16
    c.evals.names = ("knn", "rankme")
    with pytest.raises(ValueError, match=r"evals.names='rankme'.*did you mean 'rank_me'"):
        watches_of(c, tmp_path)


def test_images_without_labels_are_watched_on_others_with_labels(tmp_path):
    """kNN is that of the labelled images alone; alignment is of the run's own."""
    c = tiny_config("v1", write_npz(tmp_path / "own.npz", labels=False))
    c.evals.update(names=("knn", "alignment_uniformity", "backbone_std"), images=32)
    c.evals.source = write_npz(tmp_path / "other.npz", images=40, test_images=24)
    x, watches = watches_of(c, tmp_path)
    assert (len(x.data.train), len(x.evaluated.train), len(x.evaluated.test)) == (80, 40, 24)
    state = experiment.fresh_state(x)
    row = {}
    for watch in watches:
        row |= watch.measure(state, 0)
    assert row.keys() == {
        "knn_top1", "knn_top1_raw", "alignment", "uniformity", "backbone_std",
    }  # fmt: skip
    assert row["knn_top1_raw"] > 0.9
    assert all(np.isfinite(value) for value in row.values())
    c.evals.source = write_npz(tmp_path / "colour.npz", channels=3)
    with pytest.raises(ValueError, match=r"evals.source=.*3 channels; the training images have 1"):
        experiment.build(c)


def test_features_that_are_not_finite_are_a_line_and_nan(source, tmp_path, caplog):
    c = tiny_config("v1", source)
    x = experiment.build(c)
    state = experiment.fresh_state(x)
    state = state._replace(params=jax.tree.map(lambda p: p * np.nan, state.params))
    row = RANK_ME.make(make_context(x, tmp_path))(state, 0)
    assert np.isnan(row["rank_me"])
    assert "rank_me: not measured: features with NaN" in caplog.text


def test_features_of_a_sample_are_extracted_once_a_position(source, tmp_path):
    x = experiment.build(tiny_config("v1", source))
    context, state = make_context(x, tmp_path), experiment.fresh_state(x)
    first = context.sample(state, 0)
    assert context.sample(state, 0) is first
    other = state._replace(params=jax.tree.map(lambda p: p + 0.1, state.params))
    assert not np.allclose(context.sample(other, 1), first)
    np.testing.assert_array_equal(context.sample(state, 0), first)


@pytest.mark.parametrize(
    ("most", "watch", "expected"), [(0, 0, 0), (0, 50, 50), (30, 50, 30), (90, 50, 50), (30, 0, 30)]
)
def test_a_bounded_bank_before_the_end(most, watch, expected):
    knn = config.default().knn
    knn.update(max_train=most, watch_train=watch, max_test=7, watch_test=0)
    assert (watched(knn).max_train, watched(knn).max_test) == (expected, 7)
    assert knn.max_train == most


@pytest.mark.parametrize(
    ("bank", "k"),
    [(1, 1), (4, 4), (30, 5), (600, 12), (2000, 40), (9999, 199), (10_000, 200), (1_281_167, 200)],
)
def test_the_default_number_of_neighbours_grows_with_the_bank(bank, k):
    assert default_k(bank) == k


def test_a_number_that_is_named_stays_and_the_default_is_said(caplog):
    knn = config.default().knn
    with caplog.at_level("INFO", "moco_jax"):
        assert resolved(knn, 5000).k == 100
    assert "kNN: k = 100, for a bank of 5000 images (knn.k=0)" in caplog.text
    assert resolved(knn, 50_000).k == 200
    knn.k = 7
    assert resolved(knn, 5000).k == 7
