"""ROIAlign against torchvision's in float64, values and gradients; and past the map, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.ops import poolers

from moco_jax.detection import roi_align
from tests.boxes import random_boxes
from tests.parity.torchvision_pool import roi_align as theirs
from tests.parity.torchvision_pool import rois

pytestmark = pytest.mark.parity


def maps_and_boxes(shapes, boxes, height, width, seed=0):
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(2, *shape, 3)).astype(np.float32) for shape in shapes]
    found = random_boxes(rng, 2 * boxes, side=max(height, width)).reshape(2, boxes, 4)
    found = np.minimum(found, [width, height, width, height]).astype(np.float32)
    if boxes:
        found[:, -1] = 0, 0, width, height
    return maps, found


def nchw(features):
    return torch.tensor(features.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)


def test_level():
    """As the paper has it, at the borders too; a box without area is of the finest."""
    sides = np.array([0, 1, 111, 112, 223, 224, 447, 448, 896, 1e5], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    wanted = [2, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    np.testing.assert_array_equal(roi_align.level(boxes, 5, 2), wanted)
    mapper = poolers.LevelMapper(2, 5)
    np.testing.assert_array_equal(mapper([torch.tensor(boxes[1:])]) + 2, wanted[1:])


@pytest.mark.parametrize("boxes", [0, 9])
@pytest.mark.parametrize(("shape", "stride", "cells"), [((9, 13), 16, 7), ((1, 1), 32, 2)])
def test_one_map(shape, stride, cells, boxes, monkeypatch):
    """Whole chunks and what is left of them."""
    monkeypatch.setattr(roi_align, "CHUNK", 4)
    (features,), found = maps_and_boxes([shape], boxes, shape[0] * stride, shape[1] * stride)
    weights = np.random.default_rng(1).normal(size=(2, boxes, cells, cells, 3))

    def loss(features):
        out = roi_align.roi_align(features, found, stride, cells)
        return jnp.sum(out * weights.astype(np.float32)), out

    (_, got), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(features)
    x = nchw(features)
    out = theirs(x, rois(found), cells, 1 / stride)
    wanted = out.detach().numpy().transpose(0, 2, 3, 1).reshape(got.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    (out * torch.tensor(weights).reshape(-1, cells, cells, 3).permute(0, 3, 1, 2)).sum().backward()
    np.testing.assert_allclose(slope, x.grad.numpy().transpose(0, 2, 3, 1), atol=2e-5)


def test_pyramid(monkeypatch):
    """Each box on its own map; small and large ones as they come."""
    monkeypatch.setattr(poolers, "roi_align", theirs)  # torchvision's detector is not aligned
    shapes, strides = [(64, 96), (32, 48), (16, 24), (8, 12)], [4, 8, 16, 32]
    maps, found = maps_and_boxes(shapes, 24, 256, 384)
    assert set(np.asarray(roi_align.level(found, 5, 2)).ravel()) == {2, 3, 4}
    weights = np.random.default_rng(1).normal(size=(2, 24, 5, 5, 3))

    def loss(maps):
        out = roi_align.pyramid_align(maps, found, strides, 5)
        return jnp.sum(out * weights.astype(np.float32)), out

    (_, got), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(maps)
    pool = poolers.MultiScaleRoIAlign(["0", "1", "2", "3"], 5, 2)
    xs = [nchw(m) for m in maps]
    named = {str(i): x for i, x in enumerate(xs)}
    out = pool(named, list(torch.tensor(found, dtype=torch.float64)), [(256, 384)] * 2)
    wanted = out.detach().numpy().transpose(0, 2, 3, 1).reshape(got.shape)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    (out * torch.tensor(weights).reshape(-1, 5, 5, 3).permute(0, 3, 1, 2)).sum().backward()
    for slope, x in zip(slopes, xs, strict=True):
        grad = np.zeros(slope.shape) if x.grad is None else x.grad.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(slope, grad, atol=3e-5)


def test_past_the_map():
    """A ramp reads off where the samples lie: at most a pixel past an end they have its value."""
    weights = np.asarray(roi_align.interpolation(-3.0, 5.0, 4, 3), np.float64)
    # Points -3, -2 | -1, 0 | 1, 2 | 3, 4 on the values 0, 1, 2.
    np.testing.assert_allclose(weights.sum(1), [0, 1, 1, 0.5])
    np.testing.assert_allclose(weights @ np.arange(3), [0, 0, 1.5, 1])


def test_bfloat16_and_no_gradient_of_boxes():
    (features,), found = maps_and_boxes([(9, 13)], 5, 144, 208)
    half = features.astype(jnp.bfloat16)
    crop = jax.jit(lambda f, b: roi_align.roi_align(f, b, 16, 3))
    assert crop(half, found).dtype == jnp.bfloat16
    np.testing.assert_allclose(crop(half, found).astype(float), crop(features, found), atol=0.05)
    assert not jax.grad(lambda b: crop(features, b).sum())(found).any()
