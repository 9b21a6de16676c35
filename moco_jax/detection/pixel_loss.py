"""What a segmenter learns from: the class of every pixel.

B images, H and W their height and width, K classes.
"""

import jax
import jax.numpy as jnp
import optax

from moco_jax.detection.label_maps import IGNORED


def pixel_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy over the pixels of all images that have a class; float32.

    As PyTorch's with `ignore_index=255`, but 0 where none has one.

    Args:
      logits: (B, H, W, K).
      labels: (B, H, W) integers, 0 to K - 1 or IGNORED.
    """
    there = labels != IGNORED
    own = jnp.where(there, labels, 0).astype(jnp.int32)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), own)
    count = jnp.maximum(jnp.sum(there, dtype=jnp.float32), 1)
    return jnp.sum(jnp.where(there, entropy, 0)) / count
