"""SwAV's balanced assignments of features to prototypes, and its loss (arXiv:2006.09882).

V views, A of them of full size, B batch (over all devices), Q queued features, P prototypes.
"""

import math

import jax
import jax.numpy as jnp

from moco_jax.errors import InputError


def sinkhorn(
    scores: jax.Array, epsilon: float, iterations: int, counted: jax.Array | None = None
) -> jax.Array:
    """Assignments near the scores in which every prototype has as much as every other (3.2).

    The logarithms are scaled, not their exponentials: no score over- or underflows.

    Args:
      scores: (B, P) float32 cosines of features and prototypes.
      epsilon: how even an image's assignment is over the prototypes; above 0.
      iterations: how often prototypes, then images are scaled to equal sums; at least 1.
      counted: (B,) bool, rows that are there at all; None: every one.

    Returns:
      (B, P) float32. Each counted row sums to 1; each column to about (counted rows) / P, the
      nearer the more iterations.

    Raises:
      InputError: `epsilon` or `iterations` is out of its range.
    """
    if not epsilon > 0 or iterations < 1:
        raise InputError(
            f"sinkhorn: epsilon={epsilon} must be above 0, iterations={iterations} at least 1"
        )
    where = None if counted is None else counted[:, None]
    log_q = scores.astype(jnp.float32) / epsilon
    for _ in range(iterations):
        log_q -= jax.nn.logsumexp(log_q, axis=0, keepdims=True, where=where)
        log_q -= jax.nn.logsumexp(log_q, axis=1, keepdims=True)
    return jnp.exp(log_q)


def swapped_prediction(scores: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
    """Cross entropy of every view's scores against the assignments of each other full-size view.

    Args:
      scores: (V, B, P) float32 cosines of features and prototypes, the full-size views first.
      targets: (A, B, P) float32, assignments of the full-size views; no gradient should pass.
      temperature: divides the scores.

    Returns:
      The loss, mean over B and over the A (V - 1) pairs of views; a float32 scalar.

    Raises:
      InputError: there is no other view.
    """
    views, full = len(scores), len(targets)
    if views < 2:
        raise InputError(f"{views} view: SwAV needs at least 2, of which one predicts the other")
    log_p = jax.nn.log_softmax(scores / temperature)
    entropies = -jnp.einsum("abp,vbp->avb", targets, log_p, precision="highest").mean(-1)
    other = ~jnp.eye(full, views, dtype=bool)
    return jnp.sum(jnp.where(other, entropies, 0.0)) / (full * (views - 1))


def chance_swav(prototypes: int) -> float:
    """Loss of `swapped_prediction` when all scores are equal: ln(P)."""
    return math.log(prototypes)
