"""Samples of fixed counts from candidates of which too few are foreground.

N candidates, S samples.
"""

import jax
import jax.numpy as jnp

from moco_jax.detection.matching import BACKGROUND, FOREGROUND
from moco_jax.errors import InputError

ANCHORS, ANCHOR_FRACTION = 256, 0.5  # of an image, and the largest share of foreground
PROPOSALS, PROPOSAL_FRACTION = 512, 0.25


def sample(
    key: jax.Array, labels: jax.Array, count: int, fraction: float
) -> tuple[jax.Array, jax.Array]:
    """Draws candidates without replacement: foreground up to a share, background for the rest.

    detectron2's counts: as many foreground as there are, at most `count` times `fraction`; as many
    background as there are, at most what is left of `count`.

    Args:
      key: of the draw.
      labels: (N,) as `matching.match` gives them; others than the two are never drawn.
      count: S, at most N.
      fraction: the largest share of foreground.

    Returns:
      Indices (S,) int32 of the candidates, foreground first, and (S,) bool which of them were
      drawn; the indices of the others are to be ignored.

    Raises:
      InputError: there are fewer than `count` candidates, or the fraction is no share.
    """
    if not 0 < count <= len(labels):
        raise InputError(f"{count} samples of {len(labels)} candidates; nearest: {len(labels)}")
    if not 0 <= fraction <= 1:
        raise InputError(f"a share of foreground of {fraction}: 0 to 1 is expected")
    lots = jax.random.uniform(key, labels.shape, maxval=0.5)
    foreground, background = labels == FOREGROUND, labels == BACKGROUND
    positives = min(count, int(count * fraction))
    chosen = _first(foreground, lots, positives)
    rest = jnp.minimum(count - jnp.sum(chosen), jnp.sum(background))
    # Foreground before background before the rest, by lot in each.
    order = jnp.where(chosen, 2, jnp.where(background, 1, 0)) + lots
    _, index = jax.lax.top_k(order, count)
    return index.astype(jnp.int32), jnp.arange(count) < jnp.sum(chosen) + rest


def sampled_labels(
    key: jax.Array, labels: jax.Array, count: int, fraction: float, ignored: int
) -> jax.Array:
    """Labels (N,) in which all that `sample` did not draw are `ignored`; see there."""
    index, drawn = sample(key, labels, count, fraction)
    kept = jnp.full_like(labels, ignored)
    return kept.at[jnp.where(drawn, index, len(labels))].set(labels[index], mode="drop")


def _first(eligible: jax.Array, lots: jax.Array, count: int) -> jax.Array:
    """(N,) which are the `count` eligible ones of the highest lots, or all if they are fewer."""
    value, index = jax.lax.top_k(jnp.where(eligible, lots, -1), count)
    return jnp.zeros_like(eligible).at[index].set(value >= 0)
