"""The block of a Vision Transformer.

B batch, N tokens, C features of a token, A heads.
"""

import math
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


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU (arXiv:1606.08415), x times the normal distribution's Phi(x), of x's dtype.

    Types narrower than float32 are computed in it, by erf, which costs a TPU fewer operations
    than erfc: far left Phi loses its relative precision there, 3e-7 absolutely, which is below
    what such a type adds to a sum. The gradient keeps x alone.
    """
    if jnp.finfo(x.dtype).bits >= 32:
        return nn.gelu(x, approximate=False)
    return _narrow_gelu(x)


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def _narrow_gelu(x: jax.Array) -> jax.Array:
    # Without the barrier XLA computes it again for each tile of the product that follows.
    return jax.lax.optimization_barrier(_rounded_gelu(x))


def _rounded_gelu(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide * _phi(wide)).astype(x.dtype)


def _narrow_gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _rounded_gelu(x), x


def _narrow_gelu_backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    return ((g.astype(jnp.float32) * (_phi(wide) + wide * density)).astype(x.dtype),)


_narrow_gelu.defvjp(_narrow_gelu_forward, _narrow_gelu_backward)


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
        return dense(x.shape[-1], name="fc2")(gelu(hidden))


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
