"""Non-maximum suppression of static shapes.

N boxes; S the boxes of a block.
"""

from functools import partial

import jax
import jax.numpy as jnp

from moco_jax.detection import boxes as geometry

BLOCK = 512


def suppress(
    boxes: jax.Array,
    scores: jax.Array,
    mask: jax.Array,
    threshold: float,
    count: int,
    classes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Greedy suppression: a box is kept if no better kept box overlaps it by more than a share.

    Exactly torchvision.ops.nms, or batched_nms with `classes`; of equal scores the first box is
    the better.

    Args:
      boxes: (N, 4).
      scores: (N,) finite where `mask` is True.
      mask: (N,) which boxes there are.
      threshold: IoU above which the worse box goes.
      count: at most as many are kept, the best.
      classes: (N,) int; boxes of different classes never suppress one another.

    Returns:
      Indices (C,) int32 of the kept boxes, best first, with C = min(count, N), and (C,) bool which
      of them were kept; the indices of the others are to be ignored.
    """
    if classes is None:
        classes = jnp.zeros(len(boxes), jnp.int32)
    _, order = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), len(scores))
    kept = kept_of_sorted(boxes[order], classes[order], mask[order], threshold)
    place = jnp.where(kept, len(kept) - jnp.arange(len(kept)), 0)
    value, rank = jax.lax.top_k(place, min(count, len(kept)))
    return order[rank].astype(jnp.int32), value > 0


def kept_of_sorted(
    boxes: jax.Array, classes: jax.Array, mask: jax.Array, threshold: float
) -> jax.Array:
    """Which boxes `suppress` keeps of boxes that lie from best to worst.

    The greedy choice is the one solution of "kept = no better kept box overlaps". Blocks are
    solved in turn, each by putting its kept boxes into that sentence until they stay: as many
    rounds as the longest chain of boxes that would suppress one another.

    Args:
      boxes: (N, 4).
      classes: (N,) int.
      mask: (N,) which boxes there are, anywhere among the others.
      threshold: IoU above which the worse box goes.

    Returns:
      (N,) bool.
    """
    n, size = len(boxes), max(min(BLOCK, len(boxes)), 1)
    blocks = max(-(-n // size), 1)
    boxes, classes, mask = (
        jnp.pad(x, ((0, blocks * size - n),) + ((0, 0),) * (x.ndim - 1))
        for x in (boxes, classes, mask)
    )

    def solve(block: jax.Array, kept: jax.Array) -> jax.Array:
        own = partial(jax.lax.dynamic_slice_in_dim, start_index=block * size, slice_size=size)
        hit = geometry.iou(boxes, own(boxes)) > threshold  # (padded N, S)
        hit &= classes[:, None] == own(classes)[None]
        free = own(mask)
        if blocks > 1:  # of the blocks that are not solved yet none is kept
            free &= ~jnp.any(hit & kept[:, None], axis=0)
        settled = _settled(jnp.triu(own(hit), 1), free)
        return jax.lax.dynamic_update_slice_in_dim(kept, settled, block * size, 0)

    return jax.lax.fori_loop(0, blocks, solve, jnp.zeros_like(mask))[:n]


def _settled(hit: jax.Array, free: jax.Array) -> jax.Array:
    """(S,) the kept boxes of a block.

    Args:
      hit: (S, S) whether the row's box, the better, would suppress the column's.
      free: (S,) which no box of an earlier block suppresses.
    """

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        return free & ~jnp.any(hit & kept[:, None], axis=0), kept

    first = (free, jnp.zeros_like(free))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), again, first)[0]
