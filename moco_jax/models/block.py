"""The block of a Vision Transformer.

B batch, N tokens, C features of a token, A heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.models.attention import Attend, Attention

# (x, train, name of the layer) -> normalized x
Norm = Callable[[jax.Array, bool, str], jax.Array]
MLP_RATIO = 4

_xavier = nn.initializers.xavier_uniform()


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU between them.

    Attributes:
      dtype: of the computation.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, C) to (B, N, C)."""
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_xavier)
        hidden = dense(MLP_RATIO * x.shape[-1], name="fc1")(x)
        return dense(x.shape[-1], name="fc2")(nn.gelu(hidden, approximate=False))


def drop_path(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """Stochastic depth (arXiv:1603.09382): leaves a residual branch out of some images.

    Args:
      x: (B, N, C), the branch's output.
      rate: the share of images without it, in [0, 1); the others are divided by 1 - rate.
      key: random key.
    """
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (x.shape[0], 1, 1))
    return jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)


class Block(nn.Module):
    """A pre-norm Transformer block.

    Attributes:
      heads: A; divides C.
      norm: the normalization.
      attend: the attention.
      dtype: of the computation.
      drop_path: rate of `drop_path` in training, for either branch; above 0 it needs the random
        stream 'dropout'.
    """

    heads: int
    norm: Norm
    attend: Attend
    dtype: Any
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, N, C) to (B, N, C)."""

        def drop(y: jax.Array) -> jax.Array:
            if not (train and self.drop_path):
                return y
            return drop_path(y, self.drop_path, self.make_rng("dropout"))

        attention = Attention(self.heads, self.attend, self.dtype, name="attn")
        x += drop(attention(self.norm(x, train, "norm1")))
        return x + drop(FeedForward(self.dtype, name="mlp")(self.norm(x, train, "norm2")))
