"""VOC's average precision against its development kit's steps, in fractions."""

from fractions import Fraction

import numpy as np
import pytest

from moco_jax.detection import voc_ap
from moco_jax.detection.detections import Detections
from tests import annotations

pytestmark = pytest.mark.parity
CLASSES = 4  # of which random sets often have one or two without boxes or detections


def random_boxes(rng, count):
    """Boxes of whole pixels on a small image, so that overlaps of just a threshold are frequent."""
    low, sides = rng.integers(0, 12, (count, 2)), rng.integers(1, 11, (count, 2))
    return np.concatenate([low, low + sides], 1)


def near(rng, boxes, count):
    """Some of these boxes, moved a bit, and others."""
    chosen = boxes[rng.integers(0, len(boxes), count)] if len(boxes) else random_boxes(rng, count)
    moved = chosen + rng.integers(-1, 2, chosen.shape) * (rng.random((count, 1)) < 0.5)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    return np.where(rng.random((count, 1)) < 0.8, moved, random_boxes(rng, count))


def random_set(seed):
    rng, images, found = np.random.default_rng(seed), [], []
    used = rng.permutation(CLASSES)[: rng.integers(1, CLASSES + 1)]
    for _ in range(rng.integers(1, 5)):
        n, d = rng.integers(0, 6), rng.integers(0, 12) * (rng.random() < 0.9)
        boxes, classes = random_boxes(rng, n), rng.choice(used, n)
        hard = rng.random(n) < 0.2
        image = annotations.annotated(30, 30, boxes, classes, hard if n else ())
        images.append(image)
        scores = rng.integers(0, 6, int(d)) / 5  # many ties
        there = near(rng, boxes, int(d))
        found.append(Detections(there.astype(float), scores, rng.choice(used, int(d))))
    return annotations.a_set(images, CLASSES), found


def kit_overlap(one, other):
    """Of pixels counted from 1, both corners included: the kit's."""
    a, b = ((v + np.array([1, 1, 0, 0])).astype(int).tolist() for v in (one, other))
    across = min(a[2], b[2]) - max(a[0], b[0]) + 1
    down = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if across <= 0 or down <= 0:
        return Fraction(0)
    areas = [(v[2] - v[0] + 1) * (v[3] - v[1] + 1) for v in (a, b)]
    return Fraction(across * down, sum(areas) - across * down)


def kit_precision(data, found, number, threshold, eleven):
    """The kit's VOCevaldet and VOCap, step by step; None without true boxes."""
    true = [
        [(box, bool(d)) for box, c, d in zip(i.boxes, i.classes, i.difficult) if c == number]
        for i in data.images
    ]
    wanted = sum(not hard for image in true for _, hard in image)
    if not wanted:
        return None
    rows = []
    for i, one in enumerate(found):
        every = zip(one.scores, one.boxes, one.classes)
        rows += [(score, i, box) for score, box, c in every if c == number]
    rows.sort(key=lambda row: -row[0])
    taken, hits, misses, points = set(), 0, 0, []
    for _, i, box in rows:
        overlaps = [kit_overlap(box, other) for other, _ in true[i]]
        largest = max(overlaps, default=Fraction(-1))
        at = overlaps.index(largest) if overlaps else -1
        if largest >= threshold:
            if true[i][at][1]:
                pass
            elif (i, at) in taken:
                misses += 1
            else:
                taken.add((i, at))
                hits += 1
        else:
            misses += 1
        if hits + misses:
            points.append((Fraction(hits, wanted), Fraction(hits, hits + misses)))
    if eleven:
        levels = (Fraction(k, 10) for k in range(11))
        return sum(max((p for r, p in points if r >= k), default=0) for k in levels) / Fraction(11)
    recalls = [Fraction(0), *(r for r, _ in points), Fraction(1)]
    heights = [Fraction(0), *(p for _, p in points), Fraction(0)]
    for i in reversed(range(len(heights) - 1)):
        heights[i] = max(heights[i], heights[i + 1])
    return sum((recalls[i] - recalls[i - 1]) * heights[i] for i in range(1, len(recalls)))


@pytest.mark.parametrize("eleven", [False, True])
def test_vocs_precision_is_the_kits_on_200_random_sets(eleven):
    thresholds = [Fraction(k, 20) for k in (10, 15, 19)]
    for seed in range(200):
        data, found = random_set(seed)
        result = voc_ap.evaluate(data, found, eleven)
        wanted = [[kit_precision(data, found, c, t, eleven) for c in range(CLASSES)]
                  for t in thresholds]  # fmt: skip
        for value, kit in zip(result.classes.values(), wanted[0]):
            np.testing.assert_allclose(value, np.nan if kit is None else float(kit), atol=1e-12)
        for value, kit in ((result.ap50, wanted[0]), (result.ap75, wanted[1])):
            some = [float(v) for v in kit if v is not None]
            np.testing.assert_allclose(value, np.mean(some) if some else np.nan, atol=1e-12)


def test_the_mean_over_thresholds_is_that_of_each():
    data, found = random_set(1)
    every = [[kit_precision(data, found, c, Fraction(k, 20), False) for c in range(CLASSES)]
             for k in range(10, 20)]  # fmt: skip
    wanted = np.mean([[float(v) for v in row if v is not None] for row in every])
    np.testing.assert_allclose(voc_ap.evaluate(data, found).ap, wanted, atol=1e-12)
