"""The law of random erasing's boxes against timm's, at a significance of 1e-3, all seeds fixed."""

import random

import jax
import numpy as np
import pytest
import torch
from scipy import stats

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.data.random_erasing import RandomErasing

from moco_jax.config import view
from moco_jax.data.erase import sample_erase_box

pytestmark = pytest.mark.parity

H, W, DRAWS = 20, 31, 1500


def timms_boxes():
    random.seed(0)
    torch.manual_seed(0)
    eraser = RandomErasing(0.8, mode="pixel", device="cpu")  # DeiT's, but for the probability
    boxes = np.zeros((DRAWS, 4), int)
    for box in boxes:
        erased = eraser(torch.full((1, H, W), torch.nan))[0].isfinite().numpy()
        if erased.any():
            rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
            box[:] = rows[0], columns[0], len(rows), len(columns)
            assert erased.sum() == len(rows) * len(columns)
    return boxes


def test_boxes_have_timms_law():
    recipe = view(erase_p=0.8)
    keys = jax.random.split(jax.random.key(1), DRAWS)
    ours = jax.jit(
        jax.vmap(lambda k: sample_erase_box(k, H, W, recipe.erase_area, recipe.erase_ratio, 0.8))
    )
    pairs = [
        (boxes, boxes[:, 2] * boxes[:, 3]) for boxes in (np.asarray(ours(keys)), timms_boxes())
    ]
    for mine, theirs in zip(*([*boxes.T, area, area > 0] for boxes, area in pairs)):
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
