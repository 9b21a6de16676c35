"""Proposals: the best boxes of all maps, of a fixed number.

A_l anchors of map l; P proposals of an image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from moco_jax.detection import boxes
from moco_jax.detection.suppression import kept_of_sorted

THRESHOLD = 0.7  # IoU above which the worse of two proposals of a map goes


def propose(
    objectness: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    size: jax.Array,
    before: int,
    after: int,
    threshold: float = THRESHOLD,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Proposals of one image, as detectron2 makes them; nothing of it has a gradient.

    Of each map the best `before` are decoded, clipped, dropped without area, and suppressed; of
    all maps together the best `after` are left.

    Args:
      objectness: of each map (A_l,) logits.
      deltas: of each map (A_l, 4), in the code of `boxes.encode`.
      anchors: of each map (A_l, 4).
      size: (2,) height and width of the image on its canvas, in pixels.
      before: of each map, ahead of suppression.
      after: of all maps, at most.
      threshold: of suppression.

    Returns:
      Boxes (P, 4), logits (P,), best first, and the mask (P,) of those that are proposals; P is
      `after`, or all that are left of the maps if they are fewer. The others have a box of zeros.
    """
    parts = [
        _of_map(logits, offsets, jnp.asarray(own), size, min(before, len(logits)), threshold)
        for logits, offsets, own in zip(objectness, deltas, anchors, strict=True)
    ]
    found, scores, mask = (jnp.concatenate(part) for part in zip(*parts))
    _, best = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), min(after, len(scores)))
    found, scores, mask = found[best], scores[best], mask[best]
    return jax.lax.stop_gradient((jnp.where(mask[:, None], found, 0), scores, mask))


def _of_map(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    size: jax.Array,
    before: int,
    threshold: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scores, index = jax.lax.top_k(logits, before)
    found = boxes.decode(deltas[index], anchors[index], boxes.ANCHOR_WEIGHTS)
    found = boxes.clip(found, size)
    mask = boxes.has_area(found) & jnp.isfinite(scores) & jnp.all(jnp.isfinite(found), axis=-1)
    one_class = jnp.zeros(before, jnp.int32)
    return found, scores, kept_of_sorted(found, one_class, mask, threshold)
