"""Random boxes, of whole numbers so that overlaps tie, and greedy suppression as it is defined."""

import numpy as np


def random_boxes(rng, count, side=64, whole=False):
    """Corners in order, within a square; every eighth is one pixel large or without area."""
    corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1)
    corners = np.round(corners) if whole else corners
    corners[::8, 1] = corners[::8, 0] + rng.integers(0, 2, (len(corners[::8]), 2))
    return corners.reshape(count, 4).astype(np.float32)


def iou(a, b):
    """Of every pair, in float64."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    union = sum((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)) - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def greedy(boxes, scores, mask, threshold, classes):
    """Indices of the kept boxes, best first: one box after the other."""
    overlap, kept = iou(boxes, boxes), []
    for i in np.argsort(-scores, kind="stable"):
        rivals = [j for j in kept if classes[j] == classes[i]]
        if mask[i] and not (overlap[i, rivals] > threshold).any():
            kept.append(i)
    return kept
