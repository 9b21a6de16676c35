"""Masks against PyTorch's sampling of whole images (detectron2's way), keypoints against
torchvision's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from moco_jax.detection import masks, pasting
from tests.boxes import random_boxes
from tests.encoded import smooth

pytestmark = pytest.mark.parity


def sampled(mask, box, height, width):
    """Every pixel's centre, in the coordinates of the box from -1 to 1; zeros beyond."""
    x1, y1, x2, y2 = box.astype(np.float64)
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    given = torch.tensor(mask, dtype=torch.float64)[None, None]
    return functional.grid_sample(given, grid, align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("cells", [28, 14, 1])
def test_masks(cells):
    rng, (height, width) = np.random.default_rng(cells), (37, 53)
    boxes = np.minimum(random_boxes(rng, 24, 60), [width, height] * 2).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    boxes[0] = 0, 0, width, height
    probabilities = rng.uniform(size=(len(boxes), cells, cells)).astype(np.float32)
    found = pasting.run_lengths(probabilities, boxes, (height, width))
    for mask, box, lengths in zip(probabilities, boxes, found, strict=True):
        wanted = sampled(mask, box, height, width) >= 0.5
        bits = pasting.paste(mask, box, height, width)
        np.testing.assert_array_equal(bits, wanted)
        assert lengths == masks.encode(wanted)
    assert any(pasting.paste(*pair, height, width).any() for pair in zip(probabilities, boxes))


def test_keypoints():
    """Boxes of fractions, and of less than a pixel; the score is detectron2's."""
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 16, 90)
    boxes[0] = 3.25, 4.5, 3.75, 60.125
    heat = np.stack([smooth(56, 56, 3, seed) for seed in range(16)]).astype(np.float32) / 20
    heat += rng.normal(0, 0.1, heat.shape).astype(np.float32)
    points, logits = heatmaps_to_keypoints(
        torch.tensor(heat.transpose(0, 3, 1, 2)), torch.tensor(boxes)
    )
    found = pasting.keypoints(heat, boxes)
    np.testing.assert_allclose(found[..., :2], points[..., :2].numpy(), atol=1e-4)
    top = logits.numpy().astype(np.float64)
    total = np.exp(heat.astype(np.float64) - top[:, None, None]).sum((1, 2))
    np.testing.assert_allclose(found[..., 2], 1 / total, rtol=1e-4)
