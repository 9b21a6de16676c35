"""Initializers that several models share."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, variance_scaling

# PyTorch's default for the kernel of a linear or convolution layer: uniform in +-1/sqrt(fan_in).
torch_kernel: Initializer = variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for the bias of a layer: uniform in +-1/sqrt(fan_in).

    Args:
      fan_in: inputs of one output: features in, times the kernel's area in a convolution.
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
