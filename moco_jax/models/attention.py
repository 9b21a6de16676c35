"""Self-attention, by plain products or by one fused kernel.

B batch, N tokens, C features of a token, A heads, D features of a head.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import choose

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Twice the variance of Xavier on the C x 3C matrix is Xavier on each of three C x C matrices.
_xavier_qkv = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention of q, k, v (B, N, A, D) to (B, N, A, D), of their dtype.

    Logits and softmax are float32; between products values have the dtype of q, in the gradient
    too. (jax.nn.dot_product_attention on XLA has no gradient in bfloat16 under strict dtype
    promotion.)
    """
    return _products(q, k, v) if q.dtype == jnp.float32 else _narrow(q, k, v)


def _weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """(B, A, N, N), float32."""
    logits = jnp.einsum("bnad,bmad->banm", q, k, preferred_element_type=jnp.float32)
    return nn.softmax(logits / math.sqrt(q.shape[-1]))


def _products(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.einsum("banm,bmad->bnad", _weights(q, k).astype(v.dtype), v)


@jax.custom_vjp
def _narrow(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`_products`; its gradient keeps narrow weights, and its products have narrow operands."""
    return _products(q, k, v)


def _narrow_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    weights = _weights(q, k).astype(v.dtype)
    y = jnp.einsum("banm,bmad->bnad", weights, v)
    return y, (q, k, v, weights, y)


def _narrow_backward(kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, weights, y = kept
    to_weights = jnp.einsum("bnad,bmad->banm", g, v, preferred_element_type=jnp.float32)
    # The sum of weights times their gradient, by what is at hand (arXiv:2205.14135, B.4).
    total = jnp.einsum("bnad,bnad->ban", g.astype(jnp.float32), y.astype(jnp.float32))
    to_logits = weights.astype(jnp.float32) * (to_weights - total[..., None])
    to_logits = (to_logits / math.sqrt(q.shape[-1])).astype(q.dtype)
    return (
        jnp.einsum("banm,bmad->bnad", to_logits, k),
        jnp.einsum("banm,bnad->bmad", to_logits, q),
        jnp.einsum("banm,bnad->bmad", weights, g),
    )


_narrow.defvjp(_narrow_forward, _narrow_backward)


def fused(q: jax.Array, k: jax.Array, v: jax.Array, kernel: str = "cudnn") -> jax.Array:
    """`plain` as cuDNN's flash attention: the weights (B, A, N, N) are never in memory.

    JAX refuses the gradient for an odd N, so tokens are padded to a multiple of 8, and masked.
    """
    b, n = q.shape[:2]
    lengths = jnp.full((b,), n, jnp.int32) if n % 8 else None
    q, k, v = (jnp.pad(x, ((0, 0), (0, -n % 8), (0, 0), (0, 0))) for x in (q, k, v))
    y = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation=kernel
    )
    return y[:, :n]


ATTENTIONS = ("auto", "plain")


def choose_attention(name: str, head: int, dtype: jnp.dtype) -> Attend:
    """The attention that `model.vit.attention` names: with 'auto', `fused` where it can run.

    That is on an NVIDIA GPU, in bfloat16, with D a multiple of 8 up to 128.

    Args:
      name: of `ATTENTIONS`.
      head: D.
      dtype: of the computation.

    Raises:
      InputError: an unknown name.
    """
    automatic = choose("model.vit.attention", name, ATTENTIONS) == "auto"
    fits = dtype == jnp.bfloat16 and head % 8 == 0 and head <= 128
    return fused if automatic and fits and jax.default_backend() == "gpu" else plain


class Projections(nn.Module):
    """The linear layer that gives queries, keys and values; its parameters are those of one.

    Attributes:
      heads: A; divides C.
      apart: three products, which spares a TPU the copies that part the product of one; where the
        heads fill less than half of a tile's 128 lanes, those copies are the cheaper way.
      dtype: of the computation.
    """

    heads: int
    apart: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """(B, N, C) to three of (B, N, A, D)."""
        b, n, c = x.shape
        shape = (3, self.heads, c // self.heads)
        kernel = self.param("kernel", _xavier_qkv, (c, 3 * c))
        bias = self.param("bias", nn.initializers.zeros_init(), (3 * c,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if not self.apart:
            return tuple(jnp.moveaxis((x @ kernel + bias[None, None]).reshape(b, n, *shape), 2, 0))
        kernel, bias = kernel.reshape(c, *shape), bias.reshape(1, 1, *shape)
        project = partial(jnp.einsum, "bnc,cad->bnad", x)
        return tuple(project(kernel[:, i]) + bias[:, :, i] for i in range(3))


class Attention(nn.Module):
    """Multi-head self-attention with biases.

    Attributes:
      heads: A; divides C.
      attend: `plain` or `fused`.
      dtype: of the computation; the softmax is float32.
    """

    heads: int
    attend: Attend
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, C) to (B, N, C)."""
        b, n, c = x.shape
        apart = self.attend is plain and self.dtype == jnp.bfloat16 and c // self.heads >= 64
        q, k, v = Projections(self.heads, apart, self.dtype, name="qkv")(x)
        x = self.attend(q, k, v).reshape(b, n, c)
        init = nn.initializers.xavier_uniform()
        return nn.Dense(c, dtype=self.dtype, kernel_init=init, name="proj")(x)
