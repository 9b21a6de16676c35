"""Final detections against torchvision's, on the same logits and coded boxes.

Its suppression is the definition of tests/boxes.py, and its first class is the background.
"""

import jax
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import boxes as box_ops

from moco_jax.detection.final import as_detections, final_detections
from tests.boxes import greedy, random_boxes

pytestmark = pytest.mark.parity

SIZE = (50, 60)


@pytest.fixture(autouse=True)
def plain_suppression(monkeypatch):
    def batched(boxes, scores, labels, threshold):
        boxes, scores, labels = (x.numpy() for x in (boxes, scores, labels))
        kept = greedy(boxes, scores, np.ones(len(boxes), bool), threshold, labels)
        return torch.tensor(kept, dtype=torch.int64)

    monkeypatch.setattr(box_ops, "batched_nms", batched)


def torchvisions(logits, deltas, proposals, score, count):
    """Its boxes, scores and classes, numbered as ours."""
    heads = RoIHeads(None, None, None, 0.5, 0.5, 1, 0.5, None, score, 0.5, count)
    whole = np.pad(deltas.reshape(len(deltas), deltas.shape[1] * 4), ((0, 0), (4, 0)))
    found = heads.postprocess_detections(
        torch.tensor(np.roll(logits, 1, axis=1)),
        torch.tensor(whole),
        [torch.tensor(proposals)],
        [SIZE],
    )
    boxes, scores, labels = (part[0].numpy() for part in found)
    return boxes, scores, labels - 1


@pytest.mark.parametrize(
    ("rows", "classes", "padded", "score", "count"),
    [
        (40, 3, 0, 0.05, 100),
        (40, 3, 9, 0.05, 7),  # more than are wanted
        (40, 11, 9, 0.01, 100),  # more classes than are suppressed at once
        (40, 1, 9, 0.05, 100),
        (40, 3, 9, 0.999, 100),  # nothing is sure enough
        (40, 3, 40, 0.05, 100),  # only padding
        (1, 2, 0, 0.0, 100),
        (0, 2, 0, 0.05, 100),
    ],
)
def test_as_torchvisions(rows, classes, padded, score, count):
    rng = np.random.default_rng(rows + classes)
    logits = rng.normal(0, 2, (rows, classes + 1)).astype(np.float32)
    deltas = rng.normal(0, 1.5, (rows, classes, 4)).astype(np.float32)
    proposals = random_boxes(rng, rows, side=70)  # some past the border, some without area
    mask = rng.permutation(rows) >= padded
    wanted = torchvisions(logits[mask], deltas[mask], proposals[mask], score, count)
    logits[~mask], proposals[~mask] = np.nan, np.inf  # nobody's business
    run = jax.jit(final_detections, static_argnames="count")
    found = run(logits, deltas, proposals, mask, np.array(SIZE), score, count=count)
    got = as_detections(found, np.array(SIZE), np.array(SIZE))
    assert len(found.mask) == min(count, rows * classes)
    assert len(got) == len(wanted[0])
    assert not np.asarray(found.boxes)[~np.asarray(found.mask)].any()
    np.testing.assert_array_equal(got.classes, wanted[2])
    np.testing.assert_allclose(got.scores, wanted[1], rtol=1e-5)
    np.testing.assert_allclose(got.boxes, wanted[0], atol=1e-3)
