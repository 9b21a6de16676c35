"""From an image to the tokens of a Vision Transformer.

B batch, H and W height and width in pixels, R and S rows and columns of patches, C features of a
token.
"""

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from moco_jax.errors import InputError
from moco_jax.models.init import torch_bias, torch_kernel
from moco_jax.models.norm import BatchNorm

CONV_STEM_PATCH = 16  # pixels: four strides of 2

# Xavier of the projection as a matrix: uniform in +-sqrt(6 / (channels * patch^2 + C)).
_patch_init = nn.initializers.xavier_uniform(in_axis=(0, 1, 2), out_axis=3)


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Args:
      height: of the image, pixels.
      width: of the image.
      patch: side of a patch, pixels.

    Raises:
      InputError: the patches do not tile the image.
    """
    for pixels in (height, width):
        if pixels < patch or pixels % patch:
            raise InputError(
                f"an image side of {pixels} pixels is not a multiple of the patch size {patch}; "
                f"nearest: {max(1, round(pixels / patch)) * patch}"
            )
    return height // patch, width // patch


def sincos_position(rows: int, columns: int, features: int) -> np.ndarray:
    """The fixed 2-D position embedding of MoCo v3 (arXiv:2104.02057; 1706.03762 in 2-D).

    Four quarters: sine and cosine of the row, then sine and cosine of the column.

    Args:
      rows: R.
      columns: S.
      features: C, a multiple of 4.

    Returns:
      float32 (1, R * S, C), row after row.
    """
    quarter = features // 4
    frequency = 10000.0 ** -(np.arange(quarter) / quarter)
    grid = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    y, x = (np.outer(coordinate, frequency) for coordinate in grid)
    table = np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], axis=1)
    return table[None].astype(np.float32)


def patch_projection(features: int, patch: int, dtype: Any, name: str) -> nn.Conv:
    """The linear projection of patches: (B, H, W, channels) to (B, R, S, C)."""
    return nn.Conv(
        features, (patch, patch), patch, padding="VALID", dtype=dtype,
        kernel_init=_patch_init, name=name,
    )  # fmt: skip


class ConvStem(nn.Module):
    """Convolutions in place of the patch projection (arXiv:2106.14881), for patches of 16.

    Initialized as PyTorch does by default, which MoCo v3's release leaves in place here.

    Attributes:
      features: C, a multiple of 8.
      bn_groups: of every BatchNorm.
      dtype: of the computation.
    """

    features: int
    bn_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, channels) to (B, R, S, C)."""
        for i in range(1, 5):
            features = self.features * 2**i // 16
            x = nn.Conv(
                features, (3, 3), 2, padding=1, use_bias=False, dtype=self.dtype,
                kernel_init=torch_kernel, name=f"conv{i}",
            )(x)  # fmt: skip
            x = nn.relu(BatchNorm(self.bn_groups, dtype=self.dtype, name=f"bn{i}")(x, train))
        return nn.Conv(
            self.features, (1, 1), dtype=self.dtype, kernel_init=torch_kernel,
            bias_init=torch_bias(self.features), name="proj",
        )(x)  # fmt: skip
