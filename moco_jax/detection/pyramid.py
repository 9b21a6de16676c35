"""The feature pyramid (arXiv:1612.03144).

B images, H and W rows and columns, C channels.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection.layers import Convolution, plain_kernel
from moco_jax.errors import InputError


class Pyramid(nn.Module):
    """Maps of one number of channels, the fine ones with what the coarse ones know.

    Attributes:
      channels: C of every map that comes out.
      norm: BatchNorm after every convolution, as MoCo's recipe has it; else biases.
      finest: level of the first map; names of the layers count from it, as detectron2's.
      dtype: of the computation.
    """

    channels: int = 256
    norm: bool = True
    finest: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> tuple[jax.Array, ...]:
        """C2 to C5 to P2 to P6.

        Args:
          maps: (B, H, W, its channels), each of half the sides of the one before.
          train: see BatchNorm.

        Returns:
          (B, H, W, C) of each, and every other pixel of the last.

        Raises:
          InputError: sides that do not halve exactly.
        """
        for fine, coarse in itertools.pairwise(maps):
            if fine.shape[1:3] != tuple(2 * side for side in coarse.shape[1:3]):
                unit = 2 ** (self.finest + len(maps) - 1)
                raise InputError(
                    f"maps of {fine.shape[1:3]} and {coarse.shape[1:3]} do not halve: the sides "
                    f"of the canvas must be multiples of {unit}"
                )
        found, above = [], None
        for level in reversed(range(len(maps))):
            name = f"{self.finest + level}"
            lateral = self._layer(1, f"lateral{name}")(maps[level], train)
            above = lateral if above is None else lateral + _doubled(above)
            found.insert(0, self._layer(3, f"output{name}")(above, train))
        return (*found, found[-1][:, ::2, ::2])

    def _layer(self, size: int, name: str) -> Convolution:
        return Convolution(
            self.channels, size, self.norm, kernel_init=plain_kernel, dtype=self.dtype, name=name
        )


def _doubled(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, 2H, 2W, C), each pixel as four."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
