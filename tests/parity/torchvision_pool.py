"""torchvision's ROIAlign as its pure operations, uncompiled: its compiled part may be missing."""

import importlib

import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported

_pure = importlib.import_module("torchvision.ops.roi_align")._roi_align.__wrapped__


def roi_align(
    features, rois, output_size, spatial_scale=1.0, sampling_ratio=2, aligned=True
) -> torch.Tensor:
    """(K, C, P, P) of (B, C, H, W) and rois (K, 5), the first of which is the image."""
    side = (output_size, output_size) if isinstance(output_size, int) else output_size
    return _pure(features, rois, spatial_scale, *side, sampling_ratio, aligned)


def rois(boxes) -> torch.Tensor:
    """(B, R, 4) as (B * R, 5)."""
    image = torch.arange(len(boxes), dtype=torch.float64)[:, None].repeat(1, boxes.shape[1])
    return torch.cat([image.reshape(-1, 1), torch.as_tensor(boxes).reshape(-1, 4)], dim=1)
