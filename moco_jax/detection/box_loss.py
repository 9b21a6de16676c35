"""What the box head learns from: sampled proposals, their classes and boxes.

R proposals and S samples of an image; G true boxes, padded to at least one; K classes, class K is
the background.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from moco_jax.detection import boxes as geometry
from moco_jax.detection import matching, sampling


class Samples(NamedTuple):
    """Proposals of one image that the heads are trained on, foreground first; (S, ...) each.

    Attributes:
      boxes: (S, 4); zeros where `mask` is False.
      mask: which are sampled.
      foreground: which of them hold an object.
      index: int32, the true box of each; 0 where there is none.
    """

    boxes: jax.Array
    mask: jax.Array
    foreground: jax.Array
    index: jax.Array


def sample_proposals(
    key: jax.Array,
    proposals: jax.Array,
    mask: jax.Array,
    truth: jax.Array,
    truth_mask: jax.Array,
    count: int = sampling.PROPOSALS,
) -> Samples:
    """Draws proposals of one image, among which the true boxes are, as in detectron2.

    Args:
      key: of the draw.
      proposals: (R, 4).
      mask: (R,) which are proposals.
      truth: (G, 4).
      truth_mask: (G,) which are boxes.
      count: S, at most R + G; at most a quarter of them is foreground.
    """
    boxes = jnp.concatenate([proposals, truth])
    index, labels = matching.match(truth, truth_mask, boxes, matching.PROPOSAL_THRESHOLDS)
    there = jnp.concatenate([mask, truth_mask])
    labels = jnp.where(there, labels, matching.IGNORED)
    drawn, mask = sampling.sample(key, labels, count, sampling.PROPOSAL_FRACTION)
    foreground = mask & (labels[drawn] == matching.FOREGROUND)
    return jax.lax.stop_gradient(
        Samples(
            jnp.where(mask[:, None], boxes[drawn], 0),
            mask,
            foreground,
            jnp.where(foreground, index[drawn], 0),
        )
    )


def box_losses(
    logits: jax.Array,
    deltas: jax.Array,
    samples: Samples,
    classes: jax.Array,
    truth: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of the classes, and the absolute difference (L1) of the own class's boxes.

    Both are means over the samples of all images: the second, too, divides by background and
    foreground together, as in detectron2.

    Args:
      logits: (B, S, K + 1).
      deltas: (B, S, K, 4).
      samples: of all images, (B, S, ...) each.
      classes: (B, G) int of the true boxes.
      truth: (B, G, 4).

    Returns:
      Two float32 scalars; 0 of no samples.
    """
    own = own_class(samples, classes)
    labels = jnp.where(samples.foreground, own, deltas.shape[2])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    boxes = of_truth(samples, truth)
    targets = geometry.encode(boxes, samples.boxes, geometry.PROPOSAL_WEIGHTS)
    chosen = jnp.take_along_axis(deltas, own[:, :, None, None], axis=2)[:, :, 0]
    distance = jnp.abs(chosen.astype(jnp.float32) - targets).sum(-1)
    count = jnp.maximum(jnp.sum(samples.mask, dtype=jnp.float32), 1)
    return (
        jnp.sum(jnp.where(samples.mask, entropy, 0)) / count,
        jnp.sum(jnp.where(samples.foreground, distance, 0)) / count,
    )


def of_truth(samples: Samples, values: jax.Array) -> jax.Array:
    """What is known of the true box of each of the `samples`: (B, S, ...) of values (B, G, ...)."""
    return jax.vmap(lambda index, rows: rows[index])(samples.index, values)


def own_class(samples: Samples, classes: jax.Array) -> jax.Array:
    """(B, S) the class of each sample's true box, 0 where there is none."""
    return jnp.where(samples.foreground, of_truth(samples, classes), 0)
