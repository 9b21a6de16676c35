"""Final detections: of all classes of all proposals the best, of a fixed number.

R proposals of an image, K classes, D final detections.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax.detection import boxes as geometry
from moco_jax.detection import framing
from moco_jax.detection.detections import Detections
from moco_jax.detection.suppression import kept_of_sorted

# detectron2's and torchvision's.
SCORE = 0.05  # below and at it a detection is not worth showing
OVERLAP = 0.5  # IoU above which the worse of two detections of a class goes
COUNT = 100
CHUNK = 8  # classes that are suppressed at once: each takes R * min(R, 512) overlaps


class Final(NamedTuple):
    """Final detections of one image, best first; (D, ...) each, or of several images (B, D, ...).

    Attributes:
      boxes: float32 (D, 4) in pixels of the canvas; zeros where `mask` is False.
      scores: float32 (D,) probabilities of the class; 0 there.
      classes: int32 (D,); 0 there.
      mask: bool (D,) which are detections.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    mask: jax.Array


def final_detections(
    logits: jax.Array,
    deltas: jax.Array,
    proposals: jax.Array,
    mask: jax.Array,
    size: jax.Array,
    score: float = SCORE,
    overlap: float = OVERLAP,
    count: int = COUNT,
) -> Final:
    """Detections of one image of what the box head says, as detectron2's fast_rcnn_inference.

    Every class of a proposal whose probability is above `score` is a candidate with a box of its
    own, clipped to the image. Those of a class suppress one another, and the best of all classes
    are left. As in torchvision, boxes without area go first; so does what is not finite.

    Args:
      logits: (R, K + 1), the background last.
      deltas: (R, K, 4), in the code of `boxes.encode`.
      proposals: (R, 4) in pixels of the canvas.
      mask: (R,) which are proposals.
      size: (2,) height and width of the image on its canvas, in pixels.
      score: in [0, 1).
      overlap: IoU.
      count: at most as many are left: D is `count`, or R * K if that is less.
    """
    rows, classes = deltas.shape[:2]
    scores = jax.nn.softmax(logits.astype(jnp.float32))[:, :classes]
    apart = jnp.broadcast_to(proposals[:, None], deltas.shape)
    boxes = geometry.decode(deltas.astype(jnp.float32), apart, geometry.PROPOSAL_WEIGHTS)
    boxes = geometry.clip(boxes.reshape(-1, 4), size).reshape(boxes.shape)
    there = mask[:, None] & (scores > score)
    there &= geometry.has_area(boxes) & jnp.all(jnp.isfinite(boxes), axis=-1)
    kept = _kept(boxes, scores, there, overlap).reshape(-1)
    best = jax.lax.top_k(jnp.where(kept, scores.reshape(-1), -1), min(count, rows * classes))[1]
    mask = kept[best]
    return Final(
        jnp.where(mask[:, None], boxes.reshape(-1, 4)[best], 0),
        jnp.where(mask, scores.reshape(-1)[best], 0),
        jnp.where(mask, best % classes, 0).astype(jnp.int32),
        mask,
    )


def _kept(boxes: jax.Array, scores: jax.Array, there: jax.Array, overlap: float) -> jax.Array:
    """Which candidates are kept, each class by itself: (R, K) of boxes (R, K, 4)."""

    def own(boxes: jax.Array, scores: jax.Array, there: jax.Array) -> jax.Array:
        order = jnp.argsort(jnp.where(there, -scores, jnp.inf), stable=True)
        one_class = jnp.zeros(len(order), jnp.int32)
        kept = kept_of_sorted(boxes[order], one_class, there[order], overlap)
        return jnp.zeros_like(there).at[order].set(kept)

    by_class = (jnp.swapaxes(x, 0, 1) for x in (boxes, scores, there))
    return jax.lax.map(lambda x: own(*x), tuple(by_class), batch_size=CHUNK).T


def as_detections(found: Final, size: np.ndarray, whole: np.ndarray) -> Detections:
    """Detections of one image in its own pixels, best first.

    Args:
      found: of the image.
      size: int32 (2,), height and width of the image on its canvas.
      whole: int32 (2,), of the image as it was.
    """
    boxes, scores, classes, mask = (np.asarray(x) for x in found)
    return Detections(framing.back(boxes[mask], size, whole), scores[mask], classes[mask])
