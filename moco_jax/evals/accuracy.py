"""Accuracy of classifiers on all images of a split, none dropped.

L classifiers (heads), B batch, K classes, N images of the split.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax.data.prefetch import Prefetcher
from moco_jax.errors import InputError

RANKS = (1, 5)  # top-1, top-5


class Accuracy(NamedTuple):
    """What classifiers got right.

    Attributes:
      top1: float64 (L,), shares.
      top5: float64 (L,), shares; None where there are at most five classes.
      examples: N.
    """

    top1: np.ndarray
    top5: np.ndarray | None
    examples: int


def hits(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """How many examples have their class among the 1, and among the 5, largest logits.

    Of equal logits the lower class comes first; where logits are not finite, it is wrong.

    Args:
      logits: (L, B, K) float32.
      labels: (B,) int32; outside [0, K) is wrong.
      mask: (B,) bool, False on padding.

    Returns:
      int32 (2, L).
    """
    classes = jnp.arange(logits.shape[-1])
    label = labels[None, :, None]
    own = jnp.take_along_axis(logits, jnp.clip(label, 0, len(classes) - 1), -1)
    before = (logits > own) | ((logits == own) & (classes[None, None] < label))
    rank = jnp.sum(before, -1, dtype=jnp.int32)
    known = (labels >= 0) & (labels < len(classes)) & mask
    right = known[None] & jnp.isfinite(logits).all(-1)
    return jnp.stack([jnp.sum(right & (rank < k), -1, dtype=jnp.int32) for k in RANKS])


def accuracy(predict: Callable[[dict[str, jax.Array]], jax.Array], batches: Prefetcher) -> Accuracy:
    """Runs `predict` over padded batches.

    Args:
      predict: a batch on the device -> logits (L, B, K).
      batches: evaluation batches on the device; closed at the end.

    Raises:
      InputError: there is no example, one has a label that is none of the K, or one has no
        finite logit in any head.
    """
    found, classes = [], 0
    with batches:
        for batch in batches:
            logits = predict(batch)
            found.append(_tally(logits, batch["label"], batch["mask"]))
            classes = logits.shape[-1]
    right, examples, strange, broken = (sum(column) for column in zip(*jax.device_get(found)))
    if not examples:
        raise InputError("there is no image to evaluate on")
    if strange:
        raise InputError(f"{strange} of the evaluated images have none of the {classes} classes")
    if broken:
        raise InputError(f"{broken} of the {examples} evaluated images have features not finite")
    shares = right / examples
    return Accuracy(shares[0], shares[1] if classes > RANKS[1] else None, int(examples))


@jax.jit
def _tally(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
    """Hits (2, L); examples, those whose label is no class, those without any number; int32."""
    strange = mask & ((labels < 0) | (labels >= logits.shape[-1]))
    broken = mask & ~jnp.isfinite(logits).any((0, 2))
    counts = (jnp.sum(m, dtype=jnp.int32) for m in (mask, strange, broken))
    return hits(logits, labels, mask), *counts


def report(
    test: Accuracy, held_out: Accuracy | None, alive: np.ndarray | None = None
) -> dict[str, float]:
    """The row of metrics: of the head that is best on held-out images, beside the protocol's own.

    Args:
      test: on the test images.
      held_out: on training images held out; None: there is one head.
      alive: bool (L,), the heads that can be chosen, and shown as the own one; None: all.
    """
    if held_out is None:
        return _row(test, 0)
    alive = np.ones(len(held_out.top1), bool) if alive is None else np.asarray(alive)
    # The protocol's own, 0, where it is as good as another.
    head = int(np.argmax(np.where(alive, held_out.top1, -1.0)))
    own = {f"{name}_own": value for name, value in _row(test, 0).items()} if alive[0] else {}
    return _row(test, head) | own | {"head": head, "held_out_top1": float(held_out.top1[head])}


def _row(test: Accuracy, head: int) -> dict[str, float]:
    row = {"test_top1": float(test.top1[head])}
    return row if test.top5 is None else row | {"test_top5": float(test.top5[head])}
