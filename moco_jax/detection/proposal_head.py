"""The head of the region proposal network (arXiv:1506.01497).

B images, H and W rows and columns, A anchors of a cell.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection.layers import Convolution, last_kernel


class ProposalHead(nn.Module):
    """Says of every anchor whether it is an object, and where that ends; one head for all maps.

    Attributes:
      anchors: A.
      dtype: of the computation; the output is float32.
    """

    anchors: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Logits and coded boxes of the anchors of each map, as `anchors.map_anchors` lie.

        Args:
          maps: (B, H, W, C) each.

        Returns:
          Of each map (B, H * W * A) logits, and (B, H * W * A, 4) in the code of `boxes.encode`.
        """
        channels = maps[0].shape[-1]
        start = last_kernel(0.01)
        conv = Convolution(channels, 3, relu=True, kernel_init=start, dtype=self.dtype, name="conv")
        objectness = Convolution(
            self.anchors, 1, kernel_init=start, dtype=self.dtype, name="objectness"
        )
        deltas = Convolution(
            4 * self.anchors, 1, kernel_init=start, dtype=self.dtype, name="deltas"
        )
        hidden = [conv(x, train=False) for x in maps]
        logits = [objectness(x, train=False).reshape(len(x), -1) for x in hidden]
        coded = [deltas(x, train=False).reshape(len(x), -1, 4) for x in hidden]
        return [x.astype(jnp.float32) for x in logits], [x.astype(jnp.float32) for x in coded]
