"""The kNN classifier by which features are watched in training (arXiv:1805.01978, section 3.4).

M queries, N images of the bank, C features.
"""

from functools import partial

import jax
import jax.numpy as jnp

from moco_jax.ops.losses import l2_normalize


@partial(jax.jit, static_argnames=("num_classes", "k", "temperature", "chunk", "exclude_self"))
def knn_predict(
    queries: jax.Array,
    bank: jax.Array,
    bank_labels: jax.Array,
    num_classes: int,
    k: int,
    temperature: float,
    chunk: int = 256,
    exclude_self: bool = False,
) -> jax.Array:
    """Vote of the k most similar images of the bank, each weighted by exp(cosine / temperature).

    Of equally similar images, the first in the bank comes first; callers that take the largest
    vote with argmax or top_k get the lowest of tied classes.

    Args:
      queries: (M, C) features of any length and floating type.
      bank: (N, C) features.
      bank_labels: (N,) int32; labels outside [0, num_classes), such as -1, have no vote.
      num_classes: of the labels.
      k: neighbours, at most N (N - 1 with exclude_self).
      temperature: of the weights; 0.07 is usual.
      chunk: queries taken at a time; the largest array is (chunk, N).
      exclude_self: the queries are the bank, and no image is its own neighbour.

    Returns:
      (M, num_classes) float32: each class's share of the vote. Rows sum to 1 where all
      neighbours have labels.

    Raises:
      ValueError: k, temperature or chunk out of range, or queries other than the bank with
        exclude_self.
    """
    neighbours = len(bank) - exclude_self
    if not 1 <= k <= neighbours:
        raise ValueError(f"k={k} must be from 1 to the {neighbours} neighbours that there are")
    if not temperature > 0 or chunk < 1:
        raise ValueError(f"temperature={temperature} must be positive and chunk={chunk} at least 1")
    if exclude_self and len(queries) != len(bank):
        raise ValueError(f"exclude_self: {len(queries)} queries are not the bank of {len(bank)}")
    bank = l2_normalize(bank)

    def vote(query: jax.Array, row: jax.Array) -> jax.Array:
        cosine = jnp.einsum("nc,c->n", bank, query, precision="highest")
        if exclude_self:
            cosine = jnp.where(jnp.arange(len(bank)) == row, -jnp.inf, cosine)
        nearest, index = jax.lax.top_k(cosine, k)
        # Shares instead of exp(cosine / temperature) itself, which can overflow.
        weight = jax.nn.softmax(nearest / temperature)
        votes = jax.nn.one_hot(bank_labels[index], num_classes, dtype=jnp.float32)
        return jnp.sum(weight[:, None] * votes, axis=0)

    rows = (l2_normalize(queries), jnp.arange(len(queries)))
    return jax.lax.map(lambda x: vote(*x), rows, batch_size=chunk)
