"""The memory bank: one feature of every training image (arXiv:1805.01978).

B batch (over all devices), N training images, R >= N rows of the bank, K rows drawn, C features.
"""

import math

import jax
import jax.numpy as jnp

from moco_jax.ops.losses import l2_normalize, products


def draw_rows(key: jax.Array, count: int, images: int) -> jax.Array:
    """Rows (K,) of random images, int32: `count` is K, `images` N. One may come up repeatedly."""
    return jax.random.randint(key, (count,), 0, images, jnp.int32)


def renewed_rows(
    bank: jax.Array, index: jax.Array, features: jax.Array, momentum: float
) -> tuple[jax.Array, jax.Array]:
    """The batch's rows, moved towards its features and back to length 1.

    Of an image that is in the batch twice, as where one epoch ends and the next begins, the first
    counts: so the result does not depend on the order in which a device writes.

    Args:
      bank: (R, C) float32.
      index: (B,) int32, row of each image.
      features: (B, C) float32 of length 1.
      momentum: the share of the old row (0.5 in the paper's code).

    Returns:
      Rows of the bank, int32 (B,), each once, those past the end to be left out; and (B, C), what
      is to be written there.
    """
    again = jnp.any(jnp.tril(index[:, None] == index[None], -1), axis=1)
    past = len(bank) + jnp.arange(len(index), dtype=jnp.int32)
    values = l2_normalize(momentum * bank[index] + (1 - momentum) * features)
    return jnp.where(again, past, index), values


def log_partition(positive: jax.Array, negative: jax.Array, images: int) -> jax.Array:
    """The estimate ln Z of NCE's normalization constant from one batch (eq. 7), which it keeps.

    Args:
      positive: (B,) float32 logits of the images' own rows.
      negative: (B, K) float32 logits of the drawn rows.
      images: N.

    Returns:
      A float32 scalar: ln(N mean(exp(logits))), the mean over all B (K + 1) logits.
    """
    total = jnp.logaddexp(jax.nn.logsumexp(positive), jax.nn.logsumexp(negative))
    return total + math.log(images / (positive.size + negative.size))


def nce(
    positive: jax.Array, negative: jax.Array, log_z: jax.Array, images: int
) -> tuple[jax.Array, jax.Array]:
    """Noise-contrastive estimation: is a row the image's own, or drawn at random? (eq. 4 to 6).

    P = exp(logit) / Z is the model's probability of a row, 1 / N that of a draw; the posterior
    P / (P + K / N) is a sigmoid, in whose logarithms nothing overflows.

    Args:
      positive: (B,) float32 logits of the images' own rows.
      negative: (B, K) float32 logits of the drawn rows, the own among them where it was drawn.
      log_z: ln Z, a constant.
      images: N.

    Returns:
      The loss, summed over the K draws and mean over B, and the share of images nearer to their
      own row than to every drawn one (a tie counts as wrong); both float32 scalars.
    """
    shift = log_z + math.log(negative.shape[1] / images)
    loss = jax.nn.softplus(shift - positive) + jax.nn.softplus(negative - shift).sum(-1)
    top1 = jnp.mean(positive > negative.max(-1), dtype=jnp.float32)
    return loss.mean(), top1


def bank_logits(
    q: jax.Array, own: jax.Array, drawn: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Logits (B,) of queries against their own rows, and (B, K) against those drawn.

    Args:
      q: (B, C) float32 queries of length 1.
      own: (B, C) float32, row i that of query i's image.
      drawn: (K, C) float32.
      temperature: divides the cosines.
    """
    return jnp.sum(q * own, axis=-1) / temperature, products(q, drawn) / temperature


def chance_nce(count: int) -> float:
    """Loss of `nce` when all cosines are equal: ln(1 + K) + K ln(1 + 1 / K)."""
    return math.log1p(count) + count * math.log1p(1 / count)
