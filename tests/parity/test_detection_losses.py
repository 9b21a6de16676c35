"""Losses, their gradients and their targets against PyTorch and torchvision in float64."""

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models.detection import _utils as peer
from torchvision.models.detection import roi_heads

from moco_jax.detection import box_loss, boxes, drawing_loss, matching
from moco_jax.detection.proposal_loss import proposal_losses, proposal_targets
from tests import boxes as reference
from tests.boxes import random_boxes
from tests.parity.torchvision_pool import roi_align

pytestmark = pytest.mark.parity

CLASSES = 4
NONE = np.zeros((2, 24), bool)


def double(x):
    return torch.tensor(np.asarray(x, np.float64), requires_grad=True)


def compare(ours, inputs, theirs, tensors):
    """Sums of losses with weights, and gradients; 1e-5 of float32."""
    weights = (1.0, 3.0)

    def total(inputs):
        losses = ours(*inputs)
        return sum(w * x for w, x in zip(weights, losses)), losses

    (_, losses), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)
    np.testing.assert_allclose(losses, [float(x.detach()) for x in theirs], rtol=1e-5, atol=1e-6)
    value = sum(w * x for w, x in zip(weights, theirs))
    if value.requires_grad:
        value.backward()
    for slope, tensor in zip(slopes, tensors, strict=True):
        wanted = np.zeros(slope.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(slope, wanted, atol=1e-6)


@pytest.mark.parametrize("case", ["mixed", "background", "ignored"])
def test_proposal_losses(case):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (2, 30)).astype(np.int32)
    labels = {"mixed": labels, "background": np.minimum(labels, 0), "ignored": 0 * labels - 1}[case]
    logits, deltas, targets = (
        rng.normal(0, 3, shape).astype(np.float32) for shape in [(2, 30), (2, 30, 4), (2, 30, 4)]
    )
    a, b = double(logits), double(deltas)
    seen, found = torch.tensor(labels >= 0), torch.tensor(labels == 1)
    truth = torch.tensor(labels[labels >= 0]).double()
    entropy = functional.binary_cross_entropy_with_logits(a[seen], truth, reduction="sum")
    wanted = torch.tensor(targets).double()
    distance = functional.smooth_l1_loss(b[found], wanted[found], beta=0.0, reduction="sum")
    theirs = [x / (2 * 256) for x in (entropy, distance)]
    compare(lambda a, b: proposal_losses(a, b, labels, targets), (logits, deltas), theirs, (a, b))


def test_proposal_targets():
    """Of the sampled anchors alone, as matching and coding say of all."""
    rng = np.random.default_rng(0)
    truth, anchors = random_boxes(rng, 5, 60), random_boxes(rng, 900, 60)
    truth[:, 2:] += 3
    anchors[:, 2:] += 3
    mask = np.array([True, True, True, False, False])
    key = jax.random.key(0)
    labels, targets = map(np.asarray, jax.jit(proposal_targets)(key, truth, mask, anchors))
    index, all_labels = matching.match(truth, mask, anchors, (0.3, 0.7), low_quality=True)
    kept = labels != matching.IGNORED
    assert (kept.sum(), (labels == 1).sum()) == (256, min((all_labels == 1).sum(), 128))
    np.testing.assert_array_equal(labels[kept], all_labels[kept])
    coder = peer.BoxCoder(boxes.ANCHOR_WEIGHTS)
    own = torch.tensor(truth[np.asarray(index)]).double()
    wanted = coder.encode_single(own, torch.tensor(anchors).double()).numpy()
    np.testing.assert_allclose(targets, wanted, rtol=1e-4, atol=1e-5)


def situation(seed=0, proposals=60, samples=24, truths=4):
    """Proposals, half of them near true boxes, of two images; of the second no true box exists."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 30, (2, truths, 4)).astype(np.float32)
    truth[..., 2:] = truth[..., :2] + rng.uniform(8, 30, (2, truths, 2))
    near = truth[:, rng.integers(0, truths, proposals)]
    noise = rng.normal(0, np.where(np.arange(proposals) % 2, 3, 20)[:, None], near.shape)
    near = np.clip(near + noise, 0, 64).astype(np.float32)
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    mask = rng.uniform(size=(2, proposals)) < 0.9
    there = np.array([[True] * (truths - 1) + [False], [False] * truths])
    classes = rng.integers(0, CLASSES, (2, truths)).astype(np.int32)
    classes[~there] = -1  # padding holds what no class is
    keys = jax.random.split(jax.random.key(seed), 2)
    draw = jax.jit(jax.vmap(lambda *a: box_loss.sample_proposals(*a, count=samples)))
    found = draw(keys, near, mask, truth, there)
    return rng, truth, there, classes, near, mask, found


def test_sampled_proposals():
    _, truth, there, _, near, mask, found = situation()
    assert found.mask.all()
    assert found.foreground.sum(1).tolist() == [6, 0]  # a quarter of 24 where there is an object
    for i in range(2):
        pool = np.concatenate([near[i][mask[i]], truth[i][there[i]]])
        drawn = np.asarray(found.boxes[i])
        assert len({tuple(box) for box in drawn}) == 24
        assert {tuple(box) for box in drawn} <= {tuple(box) for box in pool}
        overlap = reference.iou(drawn, truth[i]) * there[i]
        assert ((overlap.max(1) >= 0.5) == found.foreground[i]).all()
        own = np.asarray(found.index[i])
        assert (own == np.where(found.foreground[i], overlap.argmax(1), 0)).all()


def test_too_few_proposals_leave_padding():
    key, empty = jax.random.key(0), np.zeros((30, 4), np.float32)
    none = np.zeros(30, bool)
    truth = np.array([[1, 2, 9, 9], [0, 0, 0, 0]], np.float32)
    draw = jax.jit(box_loss.sample_proposals, static_argnums=5)
    found = draw(key, empty, none, truth, np.array([True, False]), 16)
    assert found.mask.tolist() == found.foreground.tolist() == [True] + [False] * 15
    assert found.boxes.tolist() == [[1, 2, 9, 9]] + [[0] * 4] * 15
    with pytest.raises(ValueError, match="40 samples of 32"):
        box_loss.sample_proposals(key, empty, none, truth, np.array([True, False]), 40)


@pytest.mark.parametrize("case", ["full", "padded", "empty"])
def test_box_losses(case):
    rng, truth, _, classes, *_, found = situation()
    kept = {"full": 24, "padded": 15, "empty": 0}[case]
    mask = np.arange(24)[None] < kept + np.zeros((2, 1))
    found = found._replace(mask=mask, foreground=found.foreground & mask)
    logits = rng.normal(0, 3, (2, 24, CLASSES + 1)).astype(np.float32)
    deltas = rng.normal(0, 3, (2, 24, CLASSES, 4)).astype(np.float32)
    a, b = double(logits), double(deltas)
    theirs = [torch.zeros(()), torch.zeros(())]
    if kept:
        f = np.asarray(found.foreground)
        image, row = np.nonzero(f)
        own = classes[image, found.index[f]]
        labels = np.full((2, 24), CLASSES)
        labels[f] = own
        coder = peer.BoxCoder(boxes.PROPOSAL_WEIGHTS)
        true = torch.tensor(truth[image, found.index[f]]).double()
        targets = coder.encode_single(true, torch.tensor(np.asarray(found.boxes)[f]).double())
        entropy = functional.cross_entropy(a[mask], torch.tensor(labels)[mask])
        distance = functional.l1_loss(b[image, row, own], targets, reduction="sum") / (2 * kept)
        theirs = [entropy, distance]
    compare(
        lambda a, b: box_loss.box_losses(a, b, found, classes, truth),
        (logits, deltas), theirs, (a, b),
    )  # fmt: skip


def made_masks(rng, truth, side=80):
    """Ellipses within true boxes: as bits (12, 16) over each, and on a canvas as large as it gets.

    The boxes are moved to whole pixels and made 12 high and 16 wide, so that both say the same.
    """
    truth[..., :2] = np.floor(truth[..., :2]) + 4
    truth[..., 2:] = truth[..., :2] + [16, 12]
    y, x = np.mgrid[:12, :16] + 0.5
    bits = np.hypot((y - 6) / 6, (x - 8) / 8) < rng.uniform(0.5, 1.3, (*truth.shape[:2], 1, 1))
    whole = np.zeros((*truth.shape[:2], side, side), bool)
    for mask, own, (left, top, *_) in zip(
        whole.reshape(-1, side, side), bits.reshape(-1, 12, 16), truth.reshape(-1, 4).astype(int)
    ):
        mask[top : top + 12, left : left + 16] = own
    return bits, whole


@pytest.mark.parametrize("empty", [False, True])
def test_mask_loss(empty, monkeypatch):
    rng, truth, _, classes, *_, found = situation()
    if empty:
        found = found._replace(foreground=NONE)
    bits, masks = made_masks(rng, truth)
    run = jax.jit(jax.vmap(lambda *a: drawing_loss.mask_targets(*a, 7)))
    targets = run(found, truth, bits)

    def project(masks, found, index, cells):
        rois = torch.cat([index[:, None].double(), found], dim=1)
        return (roi_align(masks[:, None].double(), rois, cells)[:, 0] >= 0.5).double()

    monkeypatch.setattr(roi_heads, "project_masks_on_boxes", project)
    for i in range(2):
        at = torch.tensor(np.asarray(found.index[i])).long()
        own = torch.tensor(np.asarray(found.boxes[i])).double()
        wanted = project(torch.tensor(masks[i]), own, at, 7).numpy()
        np.testing.assert_array_equal(targets[i], wanted)
        assert 0 < wanted.mean() < 1
    logits = rng.normal(0, 3, (2, 24, 7, 7, CLASSES)).astype(np.float32)
    a = double(logits)
    own = [torch.tensor(np.asarray(f)) for f in found.foreground]
    at = [torch.tensor(np.asarray(x)[f.numpy()]).long() for x, f in zip(found.index, own)]
    inside = [torch.tensor(np.asarray(x)).double()[f] for x, f in zip(found.boxes, own)]
    flat = torch.cat([a[i][f] for i, f in enumerate(own)]).permute(0, 3, 1, 2)
    theirs = roi_heads.maskrcnn_loss(
        flat,
        inside,
        [torch.tensor(m) for m in masks],
        [torch.tensor(c).long() for c in classes],
        at,
    )
    compare(
        lambda a: [drawing_loss.mask_loss(a, found, classes, targets)], (logits,), [theirs], (a,)
    )


@pytest.mark.parametrize("case", ["mixed", "unseen", "no_foreground"])
def test_keypoint_loss(case):
    rng, truth, *_, found = situation()
    if case == "no_foreground":
        found = found._replace(foreground=NONE)
    spot = rng.uniform(-0.2, 1.2, (2, 4, 5, 2)) * (truth[..., 2:] - truth[..., :2])[:, :, None]
    points = np.concatenate([spot + truth[:, :, None, :2], rng.integers(0, 3, (2, 4, 5, 1))], -1)
    points = points.astype(np.float32) * (np.array([1, 1, 0]) if case == "unseen" else 1)
    points = points.astype(np.float32)
    logits = rng.normal(0, 3, (2, 24, 8, 8, 5)).astype(np.float32)
    a = double(logits)
    own = [torch.tensor(np.asarray(f)) for f in found.foreground]
    at = [torch.tensor(np.asarray(x)[f.numpy()]).long() for x, f in zip(found.index, own)]
    inside = [torch.tensor(np.asarray(x))[f] for x, f in zip(found.boxes, own)]
    flat = torch.cat([a[i][f] for i, f in enumerate(own)]).permute(0, 3, 1, 2)
    theirs = roi_heads.keypointrcnn_loss(
        flat.contiguous(), inside, [torch.tensor(p) for p in points], at
    )
    compare(lambda a: [drawing_loss.keypoint_loss(a, found, points)], (logits,), [theirs], (a,))


def test_keypoints_at_the_borders():
    """The left and upper border belong to the first cell, the right and lower to the last."""
    box = np.array([4.0, 8, 12, 24], np.float32)
    at = [
        (4, 8),
        (12, 24),
        (12, 8),
        (8, 16),
        (11.99, 8),
        (12.01, 8),
        (3.99, 8),
        (4, 7.9),
        (5, 24.1),
    ]
    points = np.array([(*p, 2) for p in at] + [(4, 8, 0)], np.float32)
    cells, valid = roi_heads.keypoints_to_heatmap(
        torch.tensor(points)[None], torch.tensor(box)[None], 4
    )
    got = np.asarray(drawing_loss.keypoint_cells(box, points, 4))
    np.testing.assert_array_equal(got, np.where(valid[0] == 1, cells[0], -1))
    assert got.tolist() == [0, 15, 3, 10, 3, -1, -1, -1, -1, -1]
    flat = np.array([4.0, 8, 4, 24], np.float32)  # a box of padding has no cells
    assert (drawing_loss.keypoint_cells(flat, points, 4) == -1).all()
