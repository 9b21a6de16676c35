"""Average precision of Pascal VOC (arXiv: IJCV 88(2), section 4.2), as its development kit has it.

g true boxes, d detections, T thresholds; of one class over all images

A detection belongs to the true box of its class and image that it overlaps most. It is right where
they overlap enough and no surer one belongs there too, and counts not at all where the box is
difficult. (The kit's "enough" is the threshold or more; detectron2's is more than it.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moco_jax.detection.annotated import AnnotatedSet
from moco_jax.detection.detections import Detections
from moco_jax.errors import InputError

THRESHOLDS = np.arange(50, 100, 5) / 100  # of AP: COCO's, which detectron2 uses for VOC as well


class VocResult(NamedTuple):
    """Average precisions in [0, 1].

    Attributes:
      ap50: mean over the classes that have true boxes, at an overlap of 0.5.
      ap: as well over THRESHOLDS.
      ap75: at 0.75.
      classes: name -> at 0.5; NaN where no true box is to be found.
    """

    ap50: float
    ap: float
    ap75: float
    classes: dict[str, float]


def evaluate(
    data: AnnotatedSet, found: Sequence[Detections], eleven_points: bool = False
) -> VocResult:
    """VOC's numbers of detections.

    Args:
      data: N annotated images.
      found: N detections, in the same order.
      eleven_points: VOC2007's mean of the precision at 11 recalls; False: the area, VOC2010's.

    Raises:
      InputError: other than N detections, or a class that the set does not have.
    """
    if len(found) != len(data):
        raise InputError(f"detections on {len(found)} images; expected {len(data)} of {data.name}")
    highest = max((int(one.classes.max()) for one in found if len(one)), default=0)
    lowest = min((int(one.classes.min()) for one in found if len(one)), default=0)
    if lowest < 0 or highest >= len(data.class_names):
        raise InputError(f"detections of class {lowest if lowest < 0 else highest}; {data.name} "
                         f"has 0 to {len(data.class_names) - 1}")  # fmt: skip
    aps = np.array([_of_class(data, found, i, eleven_points) for i in range(len(data.class_names))])
    counted = aps[~np.isnan(aps[:, 0])]
    means = counted.mean(0) if len(counted) else np.full(len(THRESHOLDS), np.nan)
    return VocResult(
        ap50=float(means[0]),
        ap=float(means.mean()),
        ap75=float(means[THRESHOLDS.tolist().index(0.75)]),
        classes=dict(zip(data.class_names, aps[:, 0].tolist())),
    )


class _Ranked(NamedTuple):
    """Detections of a class over all images, the surest first, (d,) each, and its true boxes, (g,).

    Attributes:
      overlaps: with the true box that each overlaps most.
      owners: which that is.
      exempt: which true boxes need not be found: difficult ones, and COCO's crowds.
    """

    overlaps: np.ndarray
    owners: np.ndarray
    exempt: np.ndarray

    @property
    def wanted(self) -> int:
        """How many there are to be found."""
        return int((~self.exempt).sum())


def _ranked(data: AnnotatedSet, found: Sequence[Detections], number: int) -> _Ranked:
    scores, overlaps, owners, exempt, before = [], [], [], [], 0
    for image, one in zip(data.images, found):
        mine, true = one.classes == number, image.classes == number
        overlap, owner = best(one.boxes[mine], image.boxes[true])
        scores.append(one.scores[mine])
        overlaps.append(overlap)
        owners.append(owner + before)
        exempt.append((image.difficult | image.crowd)[true])
        before += int(true.sum())
    if not scores:
        return _Ranked(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    owners = np.concatenate(owners)[order]
    return _Ranked(np.concatenate(overlaps)[order], owners, np.concatenate(exempt))


def _of_class(
    data: AnnotatedSet, found: Sequence[Detections], number: int, eleven_points: bool
) -> np.ndarray:
    """Average precision of a class at each threshold, float64 (T,); NaN without true boxes."""
    r = _ranked(data, found, number)
    if not r.wanted:
        return np.full(len(THRESHOLDS), np.nan)
    verdicts = (_judge(r.overlaps >= threshold, r.owners, r.exempt) for threshold in THRESHOLDS)
    return np.array([average_precision(*v, r.wanted, eleven_points) for v in verdicts])


def precision_at_recalls(
    data: AnnotatedSet, found: Sequence[Detections], number: int, points: int = 101
) -> np.ndarray:
    """The curve of a class at an overlap of 0.5: the highest precision at a recall or more.

    Args:
      data: N annotated images.
      found: N detections, in the same order.
      number: of the class.
      points: recalls from 0 to 1, equally far apart.

    Returns:
      float64 (points,): 0 at recalls that are not reached; NaN without true boxes.
    """
    r = _ranked(data, found, number)
    if not r.wanted:
        return np.full(points, np.nan)
    hits, ceiling = _ceiling(*_judge(r.overlaps >= THRESHOLDS[0], r.owners, r.exempt))
    return ceiling[[np.searchsorted(hits * (points - 1), k * r.wanted) for k in range(points)]]


def best(boxes: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union with the true box that each box overlaps most, and which that is.

    Args:
      boxes: (d, 4).
      true: (g, 4).

    Returns:
      float64 (d,) and int64 (d,); 0 and 0 where there is no true box.
    """
    if not len(true):
        return np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    one, other = boxes[:, None].astype(np.float64), true[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1)
    overlap = common / (union - common)
    owner = overlap.argmax(1)
    return overlap[np.arange(len(boxes)), owner], owner


def _judge(
    enough: np.ndarray, owners: np.ndarray, difficult: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections, the surest first, are right and which wrong: two of bool (d,)."""
    at = np.flatnonzero(enough)
    exempt = np.zeros(len(owners), bool)
    exempt[at] = difficult[owners[at]]
    _, first = np.unique(owners[at], return_index=True)
    right = np.zeros(len(owners), bool)
    right[at[first]] = True
    return right & ~exempt, ~right & ~exempt


def average_precision(
    right: np.ndarray, wrong: np.ndarray, wanted: int, eleven_points: bool = False
) -> float:
    """Average precision of detections, the surest first.

    Args:
      right: bool (d,).
      wrong: bool (d,).
      wanted: how many there are to be found, above 0.
      eleven_points: see `evaluate`.
    """
    hits, ceiling = _ceiling(right, wrong)
    if eleven_points:
        # Recall of a tenth or more in whole numbers: 3 / 10 is less than the 0.3 of some.
        reached = [np.searchsorted(hits * 10, k * wanted) for k in range(11)]
        return float(ceiling[reached].mean())
    return float(ceiling[:-1][right].sum() / wanted)


def _ceiling(right: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many are right so far, (d,); the highest precision from there on, (d + 1,), at last 0."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    precision = hits / np.maximum(hits + misses, 1)
    return hits, np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
