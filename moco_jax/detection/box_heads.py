"""Heads that say what a box holds and where it ends.

N boxes of all images, P cells of a side, C channels, K classes; class K is the background.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection.layers import convolved, last_kernel, plain_kernel
from moco_jax.models.norm import BatchNorm
from moco_jax.models.resnet import DEPTHS, Block


class BoxHead(nn.Module):
    """Convolutions, then linear layers: the head on a pyramid.

    detectron2's FPN has no convolution and two linear layers; with BatchNorm it has four of them
    and one (arXiv:1811.08883).

    Attributes:
      convolutions: how many, 3x3, with ReLU.
      layers: how many linear ones, with ReLU.
      channels: of the convolutions.
      features: F, of the linear layers.
      norm: BatchNorm after the convolutions.
      dtype: of the computation.
    """

    convolutions: int = 0
    layers: int = 2
    channels: int = 256
    features: int = 1024
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Crops (N, P, P, C) to (N, F), float32; for `mask` (N,) see BatchNorm."""
        channels = (self.channels,) * self.convolutions
        x = convolved(x, channels, mask, train, self.norm, self.dtype)
        x = x.reshape(len(x), -1)
        for i in range(1, self.layers + 1):
            layer = nn.Dense(
                self.features, kernel_init=plain_kernel, dtype=self.dtype, name=f"fc{i}"
            )
            x = nn.relu(layer(x))
        return x.astype(jnp.float32)


class LastStage(nn.Module):
    """ResNet's last stage on crops of C4, and MoCo's own BatchNorm after it (arXiv:1911.05722).

    Attributes:
      depth: layers of the ResNet.
      width: multiplies every channel count.
      dtype: of the computation.
    """

    depth: int = 50
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Crops (N, P, P, C) to maps (N, P/2, P/2, 2C); for `mask` (N,) see BatchNorm."""
        stages, bottleneck = DEPTHS[self.depth]
        for i in range(stages[3]):
            x = Block(
                features=round(512 * self.width),
                stride=1 if i else 2,
                bottleneck=bottleneck,
                zero_init_residual=False,
                bn_groups=1,
                dtype=self.dtype,
                name=f"layer4_{i}",
            )(x, train, mask)
        return BatchNorm(dtype=self.dtype, name="extra_bn")(x, train, mask)


class Predictor(nn.Module):
    """The class of a box, and a box for each class.

    Attributes:
      classes: K, without the background.
    """

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features (N, F), or maps (N, P, P, F), which are averaged.

        Returns:
          Logits (N, K + 1), and (N, K, 4) in the code of `boxes.encode`; float32.
        """
        x = x.astype(jnp.float32)
        x = x.mean((1, 2)) if x.ndim == 4 else x
        logits = nn.Dense(self.classes + 1, kernel_init=last_kernel(0.01), name="classes")(x)
        deltas = nn.Dense(4 * self.classes, kernel_init=last_kernel(0.001), name="deltas")(x)
        return logits, deltas.reshape(len(x), self.classes, 4)
