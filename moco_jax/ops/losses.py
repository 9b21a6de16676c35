"""Losses of pairs of views, their value at chance, and a gauge of collapse.

V = 2 views, B batch (over all devices), C features, K queued keys.
"""

import math

import jax
import jax.numpy as jnp


def l2_normalize(x: jax.Array) -> jax.Array:
    """Divides vectors by their length.

    Args:
      x: (..., C), any floating type.

    Returns:
      (..., C) float32 of length 1. Below 1e-12 the length counts as 1e-12, as in
      torch.nn.functional.normalize: a zero vector stays zero and its gradient is finite.
    """
    x = x.astype(jnp.float32)
    # The bound is inside the root, whose slope at zero is infinite.
    squared = jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24)
    return x / jnp.sqrt(squared)


def info_nce(
    q: jax.Array, k: jax.Array, queue: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """InfoNCE of queries against one positive key and K queued ones (arXiv:1911.05722, eq. 1).

    Gradients flow to whatever the caller differentiates: keys need a stop_gradient there.

    Args:
      q: (B, C) float32 queries of length 1.
      k: (B, C) float32 keys of length 1; row i is the positive of query i.
      queue: (K, C) float32 keys of length 1, all of them negatives.
      temperature: divides the cosines.

    Returns:
      The loss, mean over B, and the share of queries nearer to their positive than to every
      negative (a tie counts as wrong); both float32 scalars.
    """
    positive = jnp.sum(q * k, axis=-1) / temperature
    return one_against_many(positive, products(q, queue) / temperature)


def contrastive_loss(q: jax.Array, k: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """One direction of MoCo v3's loss: the other images' keys are the negatives.

    The caller adds both directions (arXiv:2104.02057, algorithm 1).

    Args:
      q: (B, C) float32 queries of length 1.
      k: (B, C) float32 keys of length 1; row i is the positive of query i.
      temperature: tau; the loss is multiplied by 2 tau.

    Returns:
      The loss, mean over B, times 2 tau, and the share of queries nearer to their positive
      than to every other key (a tie counts as wrong); both float32 scalars.
    """
    logits = products(q, k) / temperature
    own = jnp.eye(len(q), dtype=bool)
    positive = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    loss, top1 = one_against_many(positive, jnp.where(own, -jnp.inf, logits))
    return 2 * temperature * loss, top1


def nt_xent(q: jax.Array, k: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """SimCLR's loss: one positive, 2B - 2 negatives of both views (arXiv:2002.05709, eq. 1).

    Args:
      q: (2, B, C) float32 features of both views, of length 1.
      k: the same features; apart from `q` so that a caller can hold them whole on every device.
        The gradient should pass through both.
      temperature: divides the cosines.

    Returns:
      The loss, mean over 2B, and the share of features nearer to their image's other view than
      to every other feature (a tie counts as wrong); both float32 scalars.
    """
    views, batch, _ = q.shape
    logits = jnp.einsum("vbc,wkc->vbwk", q, k, precision="highest") / temperature
    image = jnp.eye(batch, dtype=bool)[None, :, None]
    view = jnp.eye(views, dtype=bool)[:, None, :, None]
    positive = jnp.sum(jnp.where(image & ~view, logits, 0.0), axis=(-2, -1))
    negative = jnp.where(image, -jnp.inf, logits)
    return one_against_many(positive, negative.reshape(views, batch, views * batch))


def regression(q: jax.Array, k: jax.Array) -> jax.Array:
    """One direction of BYOL's loss, 2 - 2 cos (arXiv:2006.07733, eq. 2); the caller adds both.

    Args:
      q: (B, C) float32 predictions of length 1.
      k: (B, C) float32 targets of length 1; no gradient should pass.

    Returns:
      The loss, mean over B; a float32 scalar in [0, 4]. Features that say nothing have 2, and
      collapsed ones 0.
    """
    # As the squared distance of unit vectors it stays exact where it is almost zero.
    return jnp.mean(jnp.sum((q - k) ** 2, axis=-1))


def one_against_many(positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of one positive logit against many, which are never concatenated.

    With the positive taken out of the sum, the loss stays exact where it is almost zero.

    Args:
      positive: (...,) float32.
      negative: (..., K) float32; -inf leaves a logit out.

    Returns:
      The mean loss, and the share of positives above all their negatives; float32 scalars.
    """
    margin = jax.nn.logsumexp(negative, axis=-1) - positive
    top1 = jnp.mean(positive > jnp.max(negative, axis=-1), dtype=jnp.float32)
    return jnp.mean(jax.nn.softplus(margin)), top1


def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """(A, C), (B, C) -> (A, B) inner products; TPU and GPU would round the inputs by default."""
    return jnp.einsum("ac,bc->ab", a, b, precision="highest")


def chance_info_nce(queue_size: int) -> float:
    """Loss of `info_nce` when all cosines are equal: ln(1 + K)."""
    return math.log1p(queue_size)


def chance_v3(batch_size: int, temperature: float) -> float:
    """Loss of both directions of `contrastive_loss` when all cosines are equal: 4 tau ln(B).

    Args:
      batch_size: B, over all devices.
      temperature: tau.
    """
    return 4 * temperature * math.log(batch_size)


def chance_nt_xent(batch_size: int) -> float:
    """Loss of `nt_xent` when all cosines are equal: ln(2B - 1)."""
    return math.log(2 * batch_size - 1)


def feature_std(z: jax.Array) -> jax.Array:
    """Spread of the directions of features: 1 when isotropic, 0 when collapsed to one point.

    The standard deviation over the batch of each channel of the normalized features, averaged
    over channels, times sqrt(C): channels of a uniformly random unit vector have variance 1/C.

    Args:
      z: (B, C) features of any length.

    Returns:
      A float32 scalar in [0, 1].
    """
    return jnp.mean(jnp.std(l2_normalize(z), axis=0)) * math.sqrt(z.shape[-1])
