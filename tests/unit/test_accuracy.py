"""Accuracy counts every example once, padding never, and ties to the lower class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.data.prefetch import Prefetcher
from moco_jax.evals.accuracy import Accuracy, accuracy, hits, report


def batches(labels, masks):
    rows = [{"label": np.int32(a), "mask": np.array(b, bool)} for a, b in zip(labels, masks)]
    return Prefetcher((row for row in rows), 1)


def counted(logits, labels, mask=None):
    labels = jnp.array(labels, jnp.int32)
    mask = jnp.ones(len(labels), bool) if mask is None else jnp.array(mask)
    return hits(jnp.array(logits, jnp.float32), labels, mask).tolist()


def test_against_a_sort_in_numpy():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (3, 200, 9)).astype(np.float32)  # many ties
    labels, mask = rng.integers(0, 9, 200), rng.random(200) < 0.7
    order = np.argsort(-logits, axis=-1, kind="stable")
    right = (order == labels[None, :, None]) & mask[None, :, None]
    expected = [right[..., :k].any(-1).sum(-1).tolist() for k in (1, 5)]
    assert counted(logits, labels, mask) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_wrong(bad):
    logits = np.zeros((1, 2, 3))
    logits[0, 0] = [bad, 0, 0]
    assert counted(logits, [0, 0]) == [[1], [1]]
    logits[0, 0] = bad
    assert counted(logits, [0, 0]) == [[1], [1]]


def test_labels_outside_the_classes_are_wrong():
    assert counted(np.zeros((1, 3, 3)), [-1, 3, 0]) == [[1], [1]]


def test_a_padded_last_batch_counts_what_is_there():
    logits = {True: [[[0, 1, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]]], False: [[[1, 0, 0, 0, 0, 0]] * 2]}
    rows = batches([[1, 1], [0, -1]], [[1, 1], [1, 0]])
    first = iter([True, False])
    found = accuracy(lambda batch: jnp.array(logits[next(first)], jnp.float32), rows)
    assert (found.examples, found.top1.tolist(), found.top5.tolist()) == (3, [2 / 3], [1.0])


def test_no_top5_of_five_classes():
    found = accuracy(lambda batch: jnp.zeros((2, 1, 5)), batches([[0]], [[1]]))
    assert found.top5 is None
    assert report(found, None) == {"test_top1": 1.0}


def test_the_best_on_held_out_images_is_reported_beside_the_protocols_own():
    test = Accuracy(np.array([0.5, 0.7, 0.9]), np.array([0.6, 0.8, 1.0]), 10)
    held_out = Accuracy(np.array([0.1, 0.3, 0.2]), None, 10)
    assert report(test, held_out) == {
        "test_top1": 0.7, "test_top5": 0.8, "test_top1_own": 0.5, "test_top5_own": 0.6,
        "head": 1, "held_out_top1": 0.3,
    }  # fmt: skip
    assert report(test, held_out._replace(top1=np.array([0.3, 0.3, 0.2])))["head"] == 0


@pytest.mark.parametrize(
    ("labels", "mask", "logit", "message"),
    [
        ([[0, 0]], [[0, 0]], 0.0, "no image to evaluate on"),
        ([[0, 3]], [[1, 1]], 0.0, "1 of the evaluated images have none of the 3 classes"),
        ([[0, -1]], [[1, 1]], 0.0, "1 of the evaluated images have none of the 3 classes"),
        ([[0, 1]], [[1, 1]], np.nan, "2 of the 2 evaluated images have features not finite"),
    ],
)
def test_what_cannot_be_evaluated(labels, mask, logit, message):
    with pytest.raises(ValueError, match=message):
        accuracy(lambda batch: jnp.full((2, 2, 3), logit), batches(labels, mask))


def test_sharded_over_all_devices(monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 16, 7)), rng.integers(0, 7, 16)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    there = jax.device_put(np.float32(logits), spread)
    found = accuracy(lambda batch: there, batches([labels], [[1] * 16]))
    np.testing.assert_array_equal(found.top1, (logits.argmax(-1) == labels).mean(-1))
