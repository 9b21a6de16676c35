"""Average precision by hand, and what evaluations refuse; parity is in tests/parity."""

import dataclasses
import math

import numpy as np
import pytest

from moco_jax.detection import coco_ap, voc_ap
from moco_jax.detection.detections import Detections
from moco_jax.errors import InputError
from tests import annotations

LEFT, RIGHT, OTHER = [0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]


def found(boxes=(), scores=(), classes=None, **more):
    n = len(boxes)
    numbers = np.zeros(n, np.int64) if classes is None else np.array(classes, np.int64)
    return Detections(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, float), numbers,
                      **more)  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "scores", "area", "eleven"),
    [
        ([LEFT, RIGHT], [0.9, 0.8], 1, 1),
        ([LEFT], [0.9], 1 / 2, 6 / 11),
        ([LEFT, LEFT, RIGHT], [0.9, 0.8, 0.7], 1 / 2 + 1 / 3, (6 + 5 * 2 / 3) / 11),
        ([OTHER, LEFT], [0.9, 0.8], 1 / 4, 6 / 2 / 11),
        ([LEFT, RIGHT, OTHER], [0.9, 0.8, 0.7], 1, 1),
        ([OTHER], [0.9], 0, 0),
        ([], [], 0, 0),
    ],
)
def test_precision_by_hand(boxes, scores, area, eleven):
    data = annotations.a_set([annotations.annotated(40, 40, [LEFT, RIGHT], [0, 0])], 1)
    for points, wanted in ((False, area), (True, eleven)):
        result = voc_ap.evaluate(data, [found(boxes, scores)], points)
        for value in (result.ap50, result.ap, result.ap75, result.classes["a"]):
            assert math.isclose(value, wanted)
        curve = voc_ap.precision_at_recalls(data, [found(boxes, scores)], 0, 11)
        assert math.isclose(curve.mean(), eleven)


def test_a_difficult_box_neither_helps_nor_harms():
    image = annotations.annotated(40, 40, [LEFT, RIGHT], [0, 0], difficult=[True, False])
    data = annotations.a_set([image], 1)
    assert voc_ap.evaluate(data, [found([LEFT, LEFT, RIGHT], [0.9, 0.8, 0.7])]).ap == 1
    assert voc_ap.evaluate(data, [found([LEFT], [0.9])]).ap == 0
    crowd = dataclasses.replace(image, difficult=~image.difficult, crowd=image.difficult)
    assert np.isnan(voc_ap.precision_at_recalls(annotations.a_set([crowd], 1), [found()], 0)).all()


def test_overlap_decides_at_which_threshold_a_box_counts():
    data = annotations.a_set([annotations.annotated(40, 40, [LEFT], [0])], 1)
    result = voc_ap.evaluate(data, [found([[0, 0, 10, 6]], [1.0])])  # 0.6: at 3 of 10 thresholds
    assert (result.ap50, result.ap75) == (1, 0)
    assert math.isclose(result.ap, 0.3)


def test_a_class_without_true_boxes_does_not_count():
    data = annotations.a_set([annotations.annotated(40, 40, [LEFT], [1])], 3)
    result = voc_ap.evaluate(data, [found([LEFT, LEFT], [0.5, 0.9], [1, 0])])
    assert result.ap50 == result.classes["b"] == 1
    assert math.isnan(result.classes["a"])
    nothing = annotations.a_set([annotations.annotated(40, 40, [], [])])
    assert math.isnan(voc_ap.evaluate(nothing, [found()]).ap)


MADE = annotations.a_set([annotations.annotated(40, 40, [LEFT], [0])])
LIKE_COCO = annotations.a_set(MADE.images, content=dict, category_ids=(1, 2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: found([LEFT], [0.5, 0.6]), r"detections of shapes"),
        (lambda: found([[0, 0, 1, math.nan]], [0.5]), "NaN or infinity"),
        (lambda: found([LEFT], [math.inf]), "NaN or infinity"),
        (lambda: found([LEFT], [0.5], masks=({}, {})), "2 masks of 1 detections"),
        (lambda: found([LEFT], [0.5], keypoints=np.zeros((2, 1, 3))), "keypoints .* of 1"),
        (lambda: voc_ap.evaluate(MADE, []), "on 0 images; expected 1 of made"),
        (lambda: voc_ap.evaluate(MADE, [found([LEFT], [0.5], [3])]), "class 3; made has 0 to 2"),
        (lambda: voc_ap.evaluate(MADE, [found([LEFT], [0.5], [-1])]), "class -1; made has 0 to 2"),
        (lambda: coco_ap.evaluate(MADE, [found()], "boxes"), "not in COCO's form"),
        (lambda: coco_ap.evaluate(LIKE_COCO, [], "boxes"), "on 0 images"),
        (lambda: coco_ap.evaluate(LIKE_COCO, [found()], "box"), "'box'; expected one of boxes"),
        (lambda: coco_ap.evaluate(LIKE_COCO, [found()], "keypoints"), "17 spreads of the 0 keyp"),
        (lambda: list(coco_ap.written(LIKE_COCO, [found([LEFT], [1.0])], "masks")), "no masks"),
        (lambda: list(coco_ap.written(LIKE_COCO, [found([LEFT], [1.0], [3])], "boxes")), "class 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
