"""What the networks of detection are made of: convolutions with BatchNorm, their initial weights.

N maps: images, or boxes of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.models.norm import BatchNorm

# detectron2's: for layers whose output passes a ReLU, for those it does not, for the last ones.
relu_kernel = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
plain_kernel = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
last_kernel = nn.initializers.normal


class Convolution(nn.Module):
    """A convolution of stride 1 that keeps the size, BatchNorm or a bias, and ReLU or not.

    Attributes:
      features: channels out.
      size: of the kernel, odd.
      norm: BatchNorm over all maps, in place of a bias.
      relu: at the end.
      kernel_init: initializer.
      dtype: of the computation.
      dilation: of the kernel.
    """

    features: int
    size: int
    norm: bool = False
    relu: bool = False
    kernel_init: Callable = relu_kernel
    dtype: Any = jnp.float32
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) to (N, H, W, features); for `mask` (N,) see BatchNorm."""
        x = nn.Conv(
            self.features, (self.size, self.size), padding=self.size // 2 * self.dilation,
            kernel_dilation=self.dilation, dtype=self.dtype, use_bias=not self.norm,
            kernel_init=self.kernel_init, name="conv",
        )(x)  # fmt: skip
        if self.norm:
            x = BatchNorm(dtype=self.dtype, name="bn")(x, train, mask)
        return nn.relu(x) if self.relu else x


def convolved(
    x: jax.Array, channels: Sequence[int], mask: jax.Array, train: bool, norm: bool, dtype: Any
) -> jax.Array:
    """Convolutions of 3x3 with ReLU in turn, conv1, conv2 ... of the module that calls it.

    Args:
      x: (N, H, W, C).
      channels: out of each.
      mask: (N,), see BatchNorm.
      train: see BatchNorm.
      norm: BatchNorm after each.
      dtype: of the computation.
    """
    for i, features in enumerate(channels, 1):
        layer = Convolution(features, 3, norm, relu=True, dtype=dtype, name=f"conv{i}")
        x = layer(x, train, mask)
    return x


def upsample(features: int, size: int, dtype: Any, name: str) -> nn.ConvTranspose:
    """A transposed convolution that doubles the sides, as PyTorch's of stride 2.

    Args:
      features: channels out.
      size: of the kernel, even; PyTorch's padding is size / 2 - 1.
      dtype: of the computation.
      name: of the parameters.
    """
    # The kernel is (h, w, out, in): its "fan-out" is of the channels in, as PyTorch counts too.
    return nn.ConvTranspose(
        features, (size, size), (2, 2), padding=((size // 2, size // 2),) * 2,
        transpose_kernel=True, kernel_init=relu_kernel, dtype=dtype, name=name,
    )  # fmt: skip
