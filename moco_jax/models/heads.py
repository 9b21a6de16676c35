"""Projection and prediction heads.

B batch, F features in, H hidden features, C features out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.models.init import torch_bias, torch_kernel
from moco_jax.models.norm import BatchNorm


class MLP(nn.Module):
    """Linear layers, with ReLU between them; PyTorch's default initialization.

    Attributes:
      layers: how many linear layers; 0 is the identity.
      hidden: H; 0: as many as go in.
      out: C.
      bias: whether the linear layers have one.
      bn: BatchNorm between each hidden layer and its ReLU.
      last_bn: BatchNorm without scale and offset after the last layer (arXiv:2104.02057).
      bn_groups: of every BatchNorm.
      dtype: of the computation; parameters, statistics and the output are float32.
    """

    layers: int
    hidden: int
    out: int
    bias: bool = True
    bn: bool = False
    last_bn: bool = False
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Features (B, F) to (B, C), float32."""
        hidden = self.hidden or x.shape[-1]
        for i in range(1, self.layers + 1):
            last = i == self.layers
            x = nn.Dense(
                self.out if last else hidden,
                use_bias=self.bias,
                dtype=self.dtype,
                kernel_init=torch_kernel,
                bias_init=torch_bias(x.shape[-1]),
                name=f"fc{i}",
            )(x)
            if self.last_bn if last else self.bn:
                x = BatchNorm(self.bn_groups, use_scale=not last, use_bias=not last, name=f"bn{i}")(
                    x, train
                )
            x = x if last else nn.relu(x)
        return x.astype(jnp.float32)


def make_head(record: ConfigDict, bn_groups: int, dtype: Any) -> MLP:
    """Builds the head that a record of `config.mlp` describes.

    Args:
      record: see there.
      bn_groups: groups of the batch with BatchNorm statistics of their own.
      dtype: of the computation.

    Raises:
      InputError: a count is negative, or there are layers without an output feature.
    """
    for field, least in (("layers", 0), ("hidden", 0), ("out", min(record.layers, 1))):
        if record[field] < least:
            raise InputError(f"head: {field}={record[field]} must be at least {least}")
    return MLP(**record, bn_groups=bn_groups, dtype=dtype)
