"""The kNN search and its vote; tests/parity/test_knn.py compares them with others."""

import jax
import numpy as np
import pytest

from moco_jax.mesh import make_mesh
from moco_jax.ops import neighbours
from moco_jax.ops.neighbours import device_bytes, nearest, rank, top_k, vote


@pytest.mark.parametrize(("width", "k"), [(1000, 1), (1000, 20), (999, 5), (64, 64), (7, 3)])
def test_top_k_is_that_of_jax_with_ties(width, k):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (13, width)).astype(np.float32)
    x[0] = 3.0
    x[1, 1:] = -np.inf
    x[2:] += rng.random((11, width)) < 0.01
    values, index = jax.jit(top_k, static_argnums=1)(x, k)
    expected, first = jax.lax.top_k(x, k)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(index[values > -np.inf], first[expected > -np.inf])


def test_more_queries_than_are_taken_at_once(monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    x = np.random.default_rng(0).normal(size=(23, 4))
    found = nearest(x, x, 3, make_mesh())
    np.testing.assert_array_equal(found.index[:, 0], np.arange(23))
    assert not (
        nearest(x, x, 3, make_mesh(), exclude_self=True).index == np.arange(23)[:, None]
    ).any()


def test_a_bank_on_disk_is_read_in_place(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "bank.npy", x)
    bank = np.load(tmp_path / "bank.npy", mmap_mode="r")
    a, b = (nearest(x[:5], bank, 3, make_mesh(), rows=3) for bank in (x, bank))
    np.testing.assert_array_equal(a.index, b.index)


def test_memory_does_not_grow_with_the_bank():
    """At ImageNet's size no array has as many elements as there are pairs."""
    mesh = make_mesh()
    small, large = (device_bytes(1000, n, 64, 20, mesh, rows=1000) for n in (80_000, 8_000_000))
    assert small == large < 64e6


def test_no_device_sends_more_than_its_k_best():
    """The search itself does not communicate; at its end 8 devices send k values a query."""
    mesh = make_mesh()
    _, step, finish = neighbours._programs(mesh, 64, 1, 8, 3)
    shapes = [jax.ShapeDtypeStruct((8, 2, 5, 3), t) for t in (np.float32, np.int32)]
    split = jax.NamedSharding(mesh, jax.P("data"))
    best = tuple(jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=split) for s in shapes)
    text = finish.lower(best).compile().as_text()
    assert "all-gather" in text or "all-reduce" in text
    rest = [((2, 5, 4), np.float32), ((2, 5), np.int32), ((64, 4), np.float32), ((), np.int32)]
    text = step.lower(best, *(jax.ShapeDtypeStruct(*s) for s in rest)).compile().as_text()
    assert not any(f"{name}(" in text for name in ("all-gather", "all-reduce", "all-to-all"))


def test_votes_by_similarity_ignore_missing_labels():
    cosine = np.array([[1.0, 1.0, 0.99]], np.float32)
    votes = vote(cosine, np.array([[0, -1, 1]]), 3, 0.1)
    assert votes.shape == (1, 3)
    assert votes[0, 0] > votes[0, 1] > votes[0, 2] == 0
    assert votes.sum() < 0.7, "a third of the vote went to the image without a label"


def test_the_lowest_class_wins_equal_votes():
    votes = vote(np.ones((1, 4), np.float32), np.array([[2, 1, 2, 1]]), 4, 0.1).repeat(4, 0)
    np.testing.assert_array_equal(rank(votes, np.arange(4)), [4, 0, 1, 4])


def test_a_class_without_a_vote_is_never_right():
    votes = np.array([[0.0, 0.7, 0.3, 0.0]]).repeat(5, 0)
    np.testing.assert_array_equal(rank(votes, np.array([0, 1, 2, 4, -1])), [4, 0, 1, 4, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 6}, "k=6 must be from 1 to the 5"),
        ({"k": 0}, "k=0"),
        ({"k": 5, "exclude_self": True}, "to the 4"),
        ({"chunk": 0}, "chunk=0"),
        ({"rows": -1}, "rows=-1"),
        ({"exclude_self": True, "queries": np.eye(3)}, "3 queries are not the bank of 5"),
        ({"queries": np.eye(3, 4)}, r"queries \(3, 4\) and bank \(5, 3\)"),
        ({"queries": np.eye(0, 3)}, "no queries"),
        ({"queries": np.full((1, 3), np.nan)}, "not finite"),
        ({"bank": np.full((5, 3), np.inf)}, "not finite"),
    ],
)
def test_bad_search(options, message):
    good = {"queries": np.eye(5, 3), "bank": np.eye(5, 3), "k": 2, "mesh": make_mesh()}
    with pytest.raises(ValueError, match=message):
        nearest(**good | options)


def test_bad_temperature():
    with pytest.raises(ValueError, match=r"temperature=0\.0 must be above 0"):
        vote(np.ones((1, 1)), np.ones((1, 1), int), 2, 0.0)
