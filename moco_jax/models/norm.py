"""BatchNorm whose statistics are shared by groups of the batch, as the recipes state them.

B batch, G groups, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.errors import InputError

MOMENTUM = 0.9  # share of itself that a running statistic keeps in a step; PyTorch's 0.1


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, per group of consecutive examples.

    With `groups` > 1 nothing is reduced across groups in training: groups that lie on different
    devices need no communication. With one group the statistics are those of the global batch,
    over all devices ("SyncBN").

    PyTorch's conventions: the biased variance normalizes, the unbiased one is stored. Everything
    is computed in float32, the variance in two passes, as the mean of (x - mean)^2: the one-pass
    E[x^2] - mean^2 cancels where the mean is large beside the deviation. Values of a narrower type
    are read once, for memory is what they wait for: both moments are of x less the running mean.

    The collection 'batch_stats' holds 'mean' and 'var', float32 (G, C), a row for each group.
    Evaluation averages the rows, so a module with another `groups` may evaluate them too.

    Attributes:
      groups: G; must divide B in training.
      epsilon: added to the variance.
      use_scale: whether there is a learned scale.
      use_bias: whether there is a learned offset.
      scale_init: initializer of the scale.
      dtype: of the output.
    """

    groups: int = 1
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x (B, ..., C) to the same shape, of dtype `dtype`.

        Args:
          x: values of any float dtype.
          train: normalize by the statistics of x and renew the running ones; else by the latter.
          mask: (B,) which examples count in the statistics, where some are padding; a group
            without any leaves its running ones as they are.

        Raises:
          InputError: in training, G does not divide B, or a group holds one value per channel.
        """
        channels = x.shape[-1]
        rows = (self.groups, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, rows, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, rows, jnp.float32)
        grouped = _split(x, self.groups if train else 1).astype(jnp.float32)
        if train and mask is not None:
            kept = _split(mask, self.groups)
            mean, var, unbiased = _masked_moments(grouped, kept)
            if not self.is_initializing():
                some = jnp.any(kept, axis=1)[:, None]
                renewed = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_mean.value = jnp.where(some, renewed, running_mean.value)
                renewed = MOMENTUM * running_var.value + (1 - MOMENTUM) * unbiased
                running_var.value = jnp.where(some, renewed, running_var.value)
        elif train:
            narrow = jnp.finfo(x.dtype).bits < 32
            near = running_mean.value
            mean, var = _moments_near(grouped, near) if narrow else _moments(grouped)
            if not self.is_initializing():
                unbiased = var * _bessel(grouped)
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * unbiased
        else:
            mean = jnp.mean(running_mean.value, axis=0, keepdims=True)
            var = jnp.mean(running_var.value, axis=0, keepdims=True)
        gain = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            gain *= self.param("scale", self.scale_init, (channels,), jnp.float32)[None]
        y = (grouped - _spread(mean, grouped)) * _spread(gain, grouped)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
            y += _spread(bias[None], grouped)
        return y.reshape(x.shape).astype(self.dtype)


def renewed_in_turn(old: jax.Array, new: jax.Array) -> jax.Array:
    """A running statistic after V passes in turn, from what each would make of the old one.

    Args:
      old: (G, C).
      new: (V, G, C), each MOMENTUM * old + (1 - MOMENTUM) * its batch's.
    """
    running = new[0]
    for single in new[1:]:
        running = MOMENTUM * running + (single - MOMENTUM * old)
    return running


def _split(x: jax.Array, groups: int) -> jax.Array:
    """(B, ..., C) to (G, B/G, ..., C)."""
    if x.shape[0] % groups:
        raise InputError(f"{groups} BatchNorm groups do not divide a batch of {x.shape[0]}")
    return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])


def _spread(rows: jax.Array, like: jax.Array) -> jax.Array:
    """(G, C) to (G, 1, ..., 1, C), of the rank of `like`."""
    return jnp.expand_dims(rows, range(1, like.ndim - 1))


def _moments(grouped: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance, each (G, C), of (G, B/G, ..., C)."""
    axes = tuple(range(1, grouped.ndim - 1))
    mean = jnp.mean(grouped, axes)
    # The variance has no gradient through its mean, as the deviations sum to zero. Saying so
    # spares the backward pass one reduction over the whole tensor.
    centered = grouped - jax.lax.stop_gradient(_spread(mean, grouped))
    return mean, jnp.mean(jnp.square(centered), axes)


def _moments_near(grouped: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_moments` in one pass, exact as far as the mean is near to `near` (G, C), in deviations."""
    axes = tuple(range(1, grouped.ndim - 1))
    near = jax.lax.stop_gradient(near)
    shifted = grouped - _spread(near, grouped)
    mean = jnp.mean(shifted, axes)
    var = jnp.mean(jnp.square(shifted), axes) - jnp.square(mean)
    return near + mean, jnp.maximum(var, 0)


def _masked_moments(grouped: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased and unbiased variance, each (G, C), of the examples under a mask (G, B/G)."""
    axes = tuple(range(1, grouped.ndim - 1))
    kept = jnp.expand_dims(kept, range(2, grouped.ndim))
    pixels = grouped.size // (kept.size * grouped.shape[-1])
    n = pixels * jnp.sum(kept, axes, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(kept, grouped, 0), axes) / jnp.maximum(n, 1)
    centered = jnp.where(kept, grouped - jax.lax.stop_gradient(_spread(mean, grouped)), 0)
    squares = jnp.sum(jnp.square(centered), axes)
    return mean, squares / jnp.maximum(n, 1), squares / jnp.maximum(n - 1, 1)


def _bessel(grouped: jax.Array) -> float:
    """Bessel's n / (n - 1), for the n values behind each statistic of (G, B/G, ..., C)."""
    n = grouped.size // (grouped.shape[0] * grouped.shape[-1])
    if n < 2:
        raise InputError(f"BatchNorm needs two values per channel and group in training, not {n}")
    return n / (n - 1)
