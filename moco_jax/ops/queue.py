"""The dictionary of MoCo v1 and v2: a first-in, first-out queue of keys (arXiv:1911.05722, 3.2).

B batch, C features, K keys in the queue.
"""

import jax
import jax.numpy as jnp

from moco_jax.ops.losses import l2_normalize


def init_queue(key: jax.Array, size: int, features: int) -> jax.Array:
    """Random unit vectors (K, C), float32: `size` is K, `features` is C."""
    return l2_normalize(jax.random.normal(key, (size, features)))


def enqueue(queue: jax.Array, ptr: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Writes keys over the oldest ones, in order, for any B and K.

    Args:
      queue: (K, C).
      ptr: int32 scalar, row of the oldest key: the next to be overwritten.
      keys: (B, C) float32 of length 1; of more than K, the last K stay.

    Returns:
      The new queue and pointer.
    """
    size, batch = len(queue), len(keys)
    skipped = max(batch - size, 0)
    # A scatter, because dynamic_update_slice moves a block that would pass the end back inside.
    rows = (ptr + jnp.arange(skipped, batch, dtype=jnp.int32)) % size
    queue = queue.at[rows].set(keys[skipped:], unique_indices=True)
    return queue, (ptr + batch) % size
