"""Suppression and proposals as they are defined, anchors, sampling, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.detection import anchors, suppression
from moco_jax.detection.boxes import decode
from moco_jax.detection.matching import BACKGROUND, FOREGROUND, IGNORED
from moco_jax.detection.proposals import propose
from moco_jax.detection.sampling import sample, sampled_labels
from moco_jax.errors import InputError
from tests.boxes import greedy, random_boxes


def kept(found):
    index, mask = (np.asarray(x) for x in found)
    assert (mask == (np.arange(len(mask)) < mask.sum())).all()  # the kept come first
    return index[mask].tolist()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(suppression, "BLOCK", 16)


@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("case", ["random", "ties", "all_padded", "one", "none"])
def test_suppression_is_greedy(case, with_classes, small_blocks):
    rng = np.random.default_rng(len(case))
    n = {"one": 1, "none": 0}.get(case, 75)
    boxes = random_boxes(rng, n, side=20, whole=case == "ties")
    scores = rng.integers(0, 5, n) if case == "ties" else rng.permutation(n)
    scores = scores.astype(np.float32)
    mask = np.zeros(n, bool) if case == "all_padded" else rng.uniform(size=n) < 0.9
    classes = rng.integers(0, 3, n) if with_classes else np.zeros(n, int)
    scores[~mask] = np.nan  # what lies in padding is nobody's business
    run = jax.jit(suppression.suppress, static_argnums=(4,))
    for threshold in (0.3, 0.5):  # whole boxes overlap by exactly a half
        wanted = greedy(boxes, np.where(mask, scores, -np.inf), mask, threshold, classes)
        own = jnp.asarray(classes, jnp.int32) if with_classes else None
        for count in (n, 5):
            assert kept(run(boxes, scores, mask, threshold, count, own)) == wanted[:count]


def test_a_long_chain_is_solved_whole(small_blocks):
    """Each box overlaps the next alone: every other one is kept, which takes as many rounds."""
    x = 4.0 * np.arange(40, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1)  # overlaps 6/14 and 2/18
    found = suppression.suppress(boxes, -x, np.ones(40, bool), 0.4, 40)
    assert kept(found) == list(range(0, 40, 2))


@pytest.mark.parametrize("after", [12, 1000])
def test_proposals_are_the_best_of_each_map(after):
    rng = np.random.default_rng(0)
    sizes, before, size = (60, 7), 30, np.array([40, 50])
    logits = [rng.permutation(n).astype(np.float32) for n in sizes]
    logits[0][:3] = np.nan, np.inf, 100.0
    own = [random_boxes(rng, n, side=60) for n in sizes]
    deltas = [rng.normal(0, 0.2, (n, 4)).astype(np.float32) for n in sizes]
    wanted = []
    for scores, anchor, delta in zip(logits, own, deltas):
        boxes = np.clip(decode(delta, anchor, (1, 1, 1, 1)), 0, [50, 40, 50, 40])
        usable = np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        # NaN and infinity are the best for top_k, and take two of its places.
        best = np.argsort(-np.nan_to_num(scores, nan=np.inf), kind="stable")[:before]
        mask = usable & np.isin(np.arange(len(scores)), best)
        kept = greedy(boxes, scores, mask, 0.7, np.zeros(len(scores)))
        wanted += [(scores[i], boxes[i]) for i in kept]
    wanted = sorted(wanted, key=lambda pair: -pair[0])[:after]
    run = jax.jit(propose, static_argnums=(4, 5))
    boxes, scores, mask = map(np.asarray, run(logits, deltas, own, size, before, after))
    assert len(boxes) == min(after, before + 7)
    assert mask.sum() == len(wanted)
    assert not boxes[~mask].any()
    np.testing.assert_array_equal(scores[mask], [score for score, _ in wanted])
    np.testing.assert_allclose(boxes[mask], np.stack([box for _, box in wanted]), atol=1e-4)


@pytest.mark.parametrize(
    ("foreground", "background", "drawn"),
    [
        (50, 50, (8, 24)),  # a quarter at most is foreground
        (3, 90, (3, 29)),  # too few foreground: background instead
        (60, 5, (8, 5)),  # too few background: fewer samples, never more foreground
        (0, 4, (0, 4)),
        (4, 0, (4, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_sampling_counts(foreground, background, drawn):
    labels = np.full(100, IGNORED, np.int32)
    labels[:foreground] = FOREGROUND
    labels[foreground : foreground + background] = BACKGROUND
    labels = np.random.default_rng(0).permutation(labels)
    run = jax.jit(sample, static_argnums=(2, 3))
    seen = set()
    for seed in range(4):
        index, mask = map(np.asarray, run(jax.random.key(seed), labels, 32, 0.25))
        chosen = labels[index[mask]].tolist()
        assert chosen == [FOREGROUND] * drawn[0] + [BACKGROUND] * drawn[1]
        assert len(set(index[mask].tolist())) == mask.sum()
        seen.add(tuple(sorted(index[mask])))
    assert (len(seen) > 1) == (foreground + background > sum(drawn))
    kept = np.asarray(sampled_labels(jax.random.key(3), labels, 32, 0.25, IGNORED))
    assert sorted(np.flatnonzero(kept != IGNORED)) == sorted(index[mask])
    assert (kept[index[mask]] == labels[index[mask]]).all()


def test_every_candidate_is_drawn_alike():
    """5 of 20 are drawn: 400 times the mean of a binomial of 2000; 5 deviations of it are 97."""
    labels = np.array([FOREGROUND, BACKGROUND] * 20, np.int32)
    keys = jax.random.split(jax.random.key(0), 1600)
    index, mask = jax.jit(jax.vmap(lambda key: sample(key, labels, 10, 0.5)))(keys)
    assert mask.all()
    counts = np.bincount(np.asarray(index).ravel(), minlength=40)
    assert abs(counts - 400).max() < 97


def test_anchors_of_a_cell_lie_as_the_channels():
    cell = anchors.cell_anchors((32, 64), (0.5, 2.0))
    width, height = (cell[:, 2:] - cell[:, :2]).T
    np.testing.assert_allclose(height / width, [0.5, 2, 0.5, 2], rtol=1e-6)
    np.testing.assert_allclose(width * height, [32**2, 32**2, 64**2, 64**2], rtol=1e-6)
    of_map = anchors.map_anchors((2, 3), 16, cell).reshape(2, 3, 4, 4)
    np.testing.assert_allclose(of_map[1, 2] - cell, np.tile([32, 16, 32, 16], (4, 1)), 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anchors.cell_anchors((32, -1)), r"size \[-1\]: positive"),
        (lambda: anchors.cell_anchors((32,), ()), "ratio of none"),
        (lambda: anchors.pyramid_anchors([(2, 2)], (4, 8), anchors.FPN_SIZES), "1 maps, 2 strides"),
        (lambda: sample(jax.random.key(0), jnp.zeros(5, int), 6, 0.5), "6 samples of 5.*est: 5"),
        (lambda: sample(jax.random.key(0), jnp.zeros(5, int), 2, 1.5), "1.5: 0 to 1"),
    ],
)
def test_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
