"""What a detector found on one image, in the coordinates of `annotated`: evaluation's input.

d detections, K keypoints
"""

import dataclasses
from typing import Any

import numpy as np

from moco_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Detections on one image, in the whole image's pixels, in any order.

    Attributes:
      boxes: float (d, 4), x1 y1 x2 y2.
      scores: float (d,), higher is surer.
      classes: integers (d,).
      masks: d of COCO's run lengths (`masks.encode`); () without.
      keypoints: float (d, K, 3), x, y and a score; None without.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: tuple[dict[str, Any], ...] = ()
    keypoints: np.ndarray | None = None

    def __post_init__(self) -> None:
        d = len(self.scores)
        shapes = [self.boxes.shape, self.scores.shape, self.classes.shape]
        if shapes != [(d, 4), (d,), (d,)]:
            raise InputError(f"detections of shapes {shapes}; expected (d, 4), (d,) and (d,)")
        if self.masks and len(self.masks) != d:
            raise InputError(f"{len(self.masks)} masks of {d} detections")
        if self.keypoints is not None and (len(self.keypoints) != d or self.keypoints.ndim != 3):
            raise InputError(f"keypoints {self.keypoints.shape} of {d} detections")
        numbers = (self.boxes, self.scores, *([] if self.keypoints is None else [self.keypoints]))
        if not all(np.isfinite(array).all() for array in numbers):
            raise InputError("detections with NaN or infinity")

    def __len__(self) -> int:
        return len(self.scores)
