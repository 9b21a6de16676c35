"""What the loop trains of dense tasks: a detector or a segmenter, and how it sees images.

B images, H, W height and width of their canvas or crop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import ConfigDict
from moco_jax.mesh import gathered
from moco_jax.methods.method import Batch, Tree, unchanged, whole_gradient


class DenseTask(NamedTuple):
    """A detector or a segmenter in the same loop as a method; see `methods.method.Method`.

    Attributes:
      init: key -> (params, method_state).
      loss: (params, method_state, batch, key, step) -> (loss, (method_state, metrics)). What it
        draws for an image depends on the key and the image's index, not on its place.
      net: the network.
      chance_loss: of a network that holds all answers for equally likely, without the boxes' part.
      layers: path prefixes, in params, of the ResNet's layers from the first to the last.
      layout: how the method state lies on the mesh.
      recipe: what the log says of it.
      views: none, an image is shown once.
      encode: there are no features to be evaluated.
      guard, after_update, caution: as of a `Method`.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict]]]
    net: nn.Module
    chance_loss: float
    layers: tuple[str, ...]
    layout: Tree
    recipe: str
    views: tuple[ConfigDict, ...] = ()
    encode: None = None
    guard: Callable[[jax.Array, Tree, Tree], tuple[jax.Array, Tree, Tree]] = whole_gradient
    after_update: Callable[[Any, Any], Any] = unchanged
    caution: str = ""


def variables_of(params: Tree, stats: Tree) -> dict[str, Tree]:
    """What a network is applied to, its parameters gathered.

    Args:
      params: as they lie on the mesh.
      stats: of BatchNorm.
    """
    return {"params": gathered(params), "batch_stats": stats}


def normalized(
    entries: dict[str, Any], which: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Images (B, H, W, 3), float32; what their canvas has beside them is zero then, their mean.

    Args:
      entries: of a batch: `image` uint8 (B, H, W, 3), `size` int32 (B, 2).
      which: view, of which there is one.
      mean: of each channel, of pixels in [0, 1].
      std: as well.
    """
    del which
    x = entries["image"].astype(jnp.float32) / 255
    mean, std = (jnp.array(values, jnp.float32)[None, None, None] for values in (mean, std))
    x = (x - mean) / std
    height, width = (entries["size"][:, i, None, None, None] for i in (0, 1))
    rows, columns = (jnp.arange(n) for n in x.shape[1:3])
    inside = (rows[None, :, None, None] < height) & (columns[None, None, :, None] < width)
    return jnp.where(inside, x, 0)
