"""Which true box an anchor or a proposal stands for.

G true boxes, padded; N anchors or proposals.
"""

import jax
import jax.numpy as jnp

from moco_jax.detection import boxes

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1
ANCHOR_THRESHOLDS = (0.3, 0.7)  # background below, foreground from here on (arXiv:1506.01497)
PROPOSAL_THRESHOLDS = (0.5, 0.5)


def match(
    truth: jax.Array,
    truth_mask: jax.Array,
    candidates: jax.Array,
    thresholds: tuple[float, float],
    low_quality: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The true box of the largest overlap for each candidate, and what that makes of it.

    detectron2's rule but for one case: a true box that no candidate overlaps makes none of them
    foreground, whereas there all candidates without overlap tie for it.

    Args:
      truth: (G, 4).
      truth_mask: (G,) whether a row is a box, not padding.
      candidates: (N, 4).
      thresholds: the IoU below which a candidate is background, and from which it is foreground;
        between them it is ignored.
      low_quality: the candidates nearest to a true box (all that tie) are foreground in any case.

    Returns:
      The index of the true box (N,) int32 (of ties the first; 0 if there is none), and labels (N,)
      int32 of FOREGROUND, BACKGROUND, IGNORED. A low-quality candidate keeps the true box that it
      overlaps most itself, which may be another.
    """
    overlap = jnp.where(truth_mask[:, None], boxes.iou(truth, candidates), -1)
    # Computed once: fusions that compute it anew might round what is compared for equality apart.
    overlap = jax.lax.optimization_barrier(overlap)
    best = jnp.max(overlap, axis=0, initial=-1)
    index = jnp.argmax(overlap, axis=0) if len(truth) else jnp.zeros(len(candidates))
    low, high = thresholds
    labels = jnp.where(best < low, BACKGROUND, jnp.where(best < high, IGNORED, FOREGROUND))
    if low_quality:
        of_truth = jnp.max(overlap, axis=1, keepdims=True, initial=-1)
        nearest = jnp.any((overlap == of_truth) & (overlap > 0), axis=0)
        labels = jnp.where(nearest, FOREGROUND, labels)
    return index.astype(jnp.int32), labels.astype(jnp.int32)
