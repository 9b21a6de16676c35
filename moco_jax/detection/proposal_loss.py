"""What the region proposal network learns from (arXiv:1506.01497).

B images, N anchors of all maps, G true boxes of an image, padded to at least one.
"""

import jax
import jax.numpy as jnp
import optax

from moco_jax.detection import boxes, matching, sampling


def proposal_targets(
    key: jax.Array, truth: jax.Array, truth_mask: jax.Array, anchors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Labels of sampled anchors, and the true boxes in their code; of one image.

    Args:
      key: of the sample.
      truth: (G, 4).
      truth_mask: (G,) whether a row is a box, not padding.
      anchors: (N, 4).

    Returns:
      Labels (N,) int32 as `matching.match` gives them, all that are not sampled IGNORED; and
      (N, 4) codes, which mean something of the foreground alone.
    """
    index, labels = matching.match(
        truth, truth_mask, anchors, matching.ANCHOR_THRESHOLDS, low_quality=True
    )
    count = min(sampling.ANCHORS, len(anchors))
    labels = sampling.sampled_labels(key, labels, count, sampling.ANCHOR_FRACTION, matching.IGNORED)
    return labels, boxes.encode(truth[index], anchors, boxes.ANCHOR_WEIGHTS)


def proposal_losses(
    logits: jax.Array, deltas: jax.Array, labels: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of objectness, cross entropy of two classes; of boxes, the absolute difference (L1).

    Both are sums over the sampled anchors, of the foreground for boxes, divided by what a full
    sample of all images has: as in detectron2, whose smooth L1 begins at 0.

    Args:
      logits: (B, N) of objectness.
      deltas: (B, N, 4).
      labels: (B, N) of `proposal_targets`.
      targets: (B, N, 4).

    Returns:
      Two float32 scalars.
    """
    foreground = labels == matching.FOREGROUND
    logits = logits.astype(jnp.float32)
    entropy = optax.sigmoid_binary_cross_entropy(logits, foreground.astype(jnp.float32))
    distance = jnp.abs(deltas.astype(jnp.float32) - targets).sum(-1)
    full = len(logits) * sampling.ANCHORS
    return (
        jnp.sum(jnp.where(labels == matching.IGNORED, 0, entropy)) / full,
        jnp.sum(jnp.where(foreground, distance, 0)) / full,
    )
