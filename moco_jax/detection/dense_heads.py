"""Heads that draw within a box: masks and keypoints (arXiv:1703.06870).

N boxes of all images, P cells of a side, C channels, K classes or keypoints.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection.layers import Convolution, convolved, last_kernel, upsample
from moco_jax.ops.operations import INTERPOLATION


class MaskHead(nn.Module):
    """A mask for each class.

    Attributes:
      classes: K.
      convolutions: how many 3x3 with ReLU come first: 4 on a pyramid, none after the last stage.
      channels: of all layers but the last.
      norm: BatchNorm after the convolutions.
      dtype: of the computation; the output is float32.
    """

    classes: int
    convolutions: int = 4
    channels: int = 256
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Crops (N, P, P, C) to logits (N, 2P, 2P, K); for `mask` (N,) see BatchNorm."""
        channels = (self.channels,) * self.convolutions
        x = convolved(x, channels, mask, train, self.norm, self.dtype)
        x = nn.relu(upsample(self.channels, 2, self.dtype, "deconv")(x))
        last = Convolution(
            self.classes, 1, kernel_init=last_kernel(0.001), dtype=self.dtype, name="masks"
        )
        return last(x, train).astype(jnp.float32)


class KeypointHead(nn.Module):
    """A heat map for each keypoint.

    Attributes:
      keypoints: K.
      channels: of each 3x3 convolution, all with ReLU.
      norm: BatchNorm after them.
      dtype: of the computation; the output is float32.
    """

    keypoints: int
    channels: Sequence[int] = (512,) * 8
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Crops (N, P, P, C) to logits (N, 4P, 4P, K); for `mask` (N,) see BatchNorm.

        The last doubling is bilinear.
        """
        x = convolved(x, self.channels, mask, train, self.norm, self.dtype)
        x = upsample(self.keypoints, 4, self.dtype, "deconv")(x).astype(jnp.float32)
        n, height, width, _ = x.shape
        with jax.named_scope(INTERPOLATION):
            return jax.image.resize(x, (n, 2 * height, 2 * width, self.keypoints), "linear")
