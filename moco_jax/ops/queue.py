"""The dictionary of MoCo v1 and v2: a first-in, first-out queue of keys (arXiv:1911.05722, 3.2).

B batch, C features, K keys in the queue.
"""

import jax
import jax.numpy as jnp

from moco_jax.ops.losses import l2_normalize


def init_queue(key: jax.Array, size: int, features: int) -> jax.Array:
    """Random unit vectors (K, C), float32: `size` is K, `features` is C."""
    return l2_normalize(jax.random.normal(key, (size, features)))


def newest(size: int, ptr: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where keys go in the queue: over the oldest ones, in order, for any B and K.

    Args:
      size: K.
      ptr: int32 scalar, row of the oldest key: the next to be overwritten.
      keys: (B, C) float32 of length 1; of more than K, the last K stay.

    Returns:
      Rows of the queue, int32 (min(B, K),), each once; the keys that go there; the new pointer.
    """
    batch = len(keys)
    skipped = max(batch - size, 0)
    # Rows to scatter to: dynamic_update_slice moves a block that would pass the end back inside.
    rows = (ptr + jnp.arange(skipped, batch, dtype=jnp.int32)) % size
    return rows, keys[skipped:], (ptr + batch) % size
