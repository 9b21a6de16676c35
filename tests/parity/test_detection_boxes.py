"""Boxes, anchors and matching against torchvision's pure operations and float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import ops
from torchvision.models.detection import _utils as peer
from torchvision.models.detection.anchor_utils import AnchorGenerator

from moco_jax.detection import anchors, boxes
from moco_jax.detection.matching import BACKGROUND, FOREGROUND, IGNORED, match
from tests import boxes as reference
from tests.boxes import random_boxes

pytestmark = pytest.mark.parity

WEIGHTS = (boxes.ANCHOR_WEIGHTS, boxes.PROPOSAL_WEIGHTS)


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(x).copy()) for x in arrays]


@pytest.mark.parametrize(("n", "m"), [(40, 25), (0, 3), (3, 0), (1, 1)])
@pytest.mark.parametrize("whole", [False, True])
def test_iou_and_clip(n, m, whole):
    rng = np.random.default_rng(n)
    a, b = random_boxes(rng, n, whole=whole), random_boxes(rng, m, whole=whole)
    got = np.asarray(jax.jit(boxes.iou)(a, b))
    np.testing.assert_allclose(got, reference.iou(a, b), atol=1e-6)
    theirs = ops.box_iou(*tensors(a, b)).numpy()
    np.testing.assert_allclose(got, np.nan_to_num(theirs), atol=1e-6)  # 0/0 without areas
    clipped = ops.clip_boxes_to_image(tensors(a - 9)[0], (30, 40)).numpy()
    np.testing.assert_array_equal(boxes.clip(a - 9, np.array([30, 40])), clipped)
    np.testing.assert_allclose(boxes.area(a), ops.box_area(*tensors(a)), rtol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_coding(weights):
    """2e-5: float32, of logarithms and ratios up to 60 times 10."""
    rng = np.random.default_rng(0)
    true, anchor = random_boxes(rng, 50), random_boxes(rng, 50)
    true[:, 2:] += 1
    anchor[:, 2:] += 1
    coder = peer.BoxCoder(weights)
    code = jax.jit(lambda a, b: boxes.encode(a, b, weights))(true, anchor)
    wanted = coder.encode_single(*tensors(true.astype(float), anchor.astype(float))).numpy()
    np.testing.assert_allclose(code, wanted, rtol=2e-5, atol=2e-5)
    wild = rng.normal(0, 6, (50, 4)).astype(np.float32)  # passes the largest growth
    for deltas in (np.asarray(code), wild):
        wanted = coder.decode_single(*tensors(deltas.astype(float), anchor.astype(float)))
        got = jax.jit(lambda a, b: boxes.decode(a, b, weights))(deltas, anchor)
        np.testing.assert_allclose(got, wanted.numpy(), rtol=2e-5, atol=1e-3)
    np.testing.assert_allclose(boxes.decode(code, anchor, weights), true, atol=1e-4)


@pytest.mark.parametrize("flat", [0, 1])
def test_a_box_without_area_has_a_code_and_a_gradient(flat):
    pair = [np.array([[3.0, 3, 9, 9]], np.float32), np.array([[1.0, 2, 5, 7]], np.float32)]
    pair[flat][:, 2] = pair[flat][:, 0]
    loss = lambda a, b: jnp.sum(boxes.encode(a, b, boxes.ANCHOR_WEIGHTS) ** 2)  # noqa: E731
    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(*pair)
    assert value == 0
    assert all(np.isfinite(g).all() for g in slopes)


def test_anchors_but_for_torchvisions_rounding():
    shapes, strides = [(4, 6), (2, 3)], [16, 32]
    ours = anchors.pyramid_anchors(shapes, strides, ((32,), (64,)))
    theirs = AnchorGenerator(((32,), (64,)), (anchors.RATIOS,) * 2)
    wanted = theirs.grid_anchors(shapes, [[torch.tensor(s)] * 2 for s in strides])
    for own, other in zip(ours, wanted, strict=True):
        assert own.dtype == np.float32
        assert abs(own - other.numpy()).max() <= 0.5
        # Where a half side is whole nothing is rounded.
        np.testing.assert_array_equal(own[1::3], other.numpy()[1::3])
    # Exactly, of the definition.
    cells = itertools.product((0, 16), (0, 16, 32), 12 * np.sqrt(anchors.RATIOS))
    wanted = [(x - 144 / h, y - h, x + 144 / h, y + h) for y, x, h in cells]
    got = anchors.map_anchors((2, 3), 16, anchors.cell_anchors((24,)))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("thresholds", [(0.3, 0.7), (0.5, 0.5)])
@pytest.mark.parametrize(("seed", "truths"), [(0, 6), (1, 1), (2, 12)])
def test_matching(seed, truths, thresholds, low_quality):
    """On boxes of whole numbers, whose overlaps tie and meet the thresholds exactly."""
    rng = np.random.default_rng(seed)
    truth = random_boxes(rng, truths, side=12, whole=True)
    truth[:, 2:] += 1  # every true box has an area, as those of the peer must
    anchor = np.concatenate([random_boxes(rng, 150, side=12, whole=True), truth[:1]])
    matcher = peer.Matcher(thresholds[1], thresholds[0], low_quality)
    overlap = ops.box_iou(*tensors(truth, anchor))
    if low_quality:
        assert (overlap.max(1).values > 0).all()
    theirs = matcher(overlap).numpy()
    labels = np.where(theirs >= 0, FOREGROUND, np.where(theirs == -1, BACKGROUND, IGNORED))
    mask = np.arange(truths + 5) < truths
    padded = np.concatenate([truth, np.repeat(anchor[:1], 5, axis=0)])  # padding is no box
    run = jax.jit(match, static_argnums=(3, 4))
    index, got = map(np.asarray, run(padded, mask, anchor, thresholds, low_quality))
    np.testing.assert_array_equal(got, labels)
    np.testing.assert_array_equal(index[got == FOREGROUND], theirs[theirs >= 0])


@pytest.mark.parametrize("truths", [0, 4])
def test_without_a_true_box_all_is_background(truths):
    anchor = random_boxes(np.random.default_rng(0), 20)
    mask = np.zeros(truths, bool)
    index, labels = match(anchor[:truths], mask, anchor, (0.3, 0.7), low_quality=True)
    assert (labels == BACKGROUND).all()
    assert (index == 0).all()


def test_a_true_box_that_nothing_overlaps_makes_no_foreground():
    anchor = random_boxes(np.random.default_rng(0), 20, side=10)
    _, labels = match(
        np.array([[50.0, 50, 60, 60]], np.float32), np.ones(1, bool), anchor, (0.3, 0.7), True
    )
    assert (labels == BACKGROUND).all()
