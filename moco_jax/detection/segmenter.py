"""A class for every pixel: MoCo's dilated fully convolutional network (arXiv:1911.05722, A.3).

B images, H and W their height and width, h and w of the maps, K classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection.cropping import STRIDE, check_sides
from moco_jax.detection.layers import Convolution, last_kernel
from moco_jax.models.resnet import DEPTHS, ResNet
from moco_jax.ops.operations import INTERPOLATION

_DILATION = 6  # of the two convolutions after the backbone: a large field of view
_HIGHEST = jax.lax.Precision.HIGHEST


class Segmenter(nn.Module):
    """ResNet whose last stage is dilated by 2, two 3x3 convolutions dilated by 6, one of 1x1.

    Every BatchNorm takes its statistics of the batch over all devices.

    Attributes:
      classes: K.
      depth: layers of the ResNet.
      width: multiplies its channels.
      channels: of the two convolutions.
      dtype: of the computation; the output is float32.
    """

    classes: int
    depth: int = 50
    width: float = 1.0
    channels: int = 256
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the parts."""
        stages, bottleneck = DEPTHS[self.depth]
        self.backbone = ResNet(stages, bottleneck, self.width, dtype=self.dtype, dilated=True)
        head = {"norm": True, "relu": True, "dtype": self.dtype, "dilation": _DILATION}
        self.conv1 = Convolution(self.channels, 3, **head)
        self.conv2 = Convolution(self.channels, 3, **head)
        self.predictor = Convolution(
            self.classes, 1, kernel_init=last_kernel(0.01), dtype=self.dtype
        )

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images (B, H, W, 3) to logits (B, h, w, K), cell i at pixel 16 i; see `upsampled`.

        Args:
          images: normalized; H and W are 16 times a number, and 1.
          train: see BatchNorm.

        Raises:
          InputError: other sides.
        """
        check_sides(images.shape[1:3])
        x = self.backbone(images, train, maps=True)[-1]
        x = self.conv2(self.conv1(x, train), train)
        return self.predictor(x, train).astype(jnp.float32)


def upsampled(logits: jax.Array) -> jax.Array:
    """Logits (B, h, w, K) of cells as logits (B, H, W, K) of pixels, H = 16 (h - 1) + 1; bilinear.

    The corners are aligned, as where cells lie says (and as in DeepLab's 513 = 16 * 32 + 1, from
    where MoCo took the sizes of its crops, arXiv:1606.00915).
    """
    batch, height, width, classes = logits.shape
    shape = (batch, STRIDE * (height - 1) + 1, STRIDE * (width - 1) + 1, classes)
    # Cell i is centred at i + 1/2 there, and its pixel at 16 i + 1/2.
    shift = jnp.full(2, 0.5 - 0.5 * STRIDE)
    with jax.named_scope(INTERPOLATION):
        return jax.image.scale_and_translate(
            logits, shape, (1, 2), jnp.full(2, float(STRIDE)), shift, "linear",
            antialias=False, precision=_HIGHEST,
        )  # fmt: skip
