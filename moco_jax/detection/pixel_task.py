"""What the loop trains of `protocol='segmentation'`: a class for every pixel.

B images, H, W height and width of their crops, K classes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moco_jax.config import ConfigDict
from moco_jax.detection.architecture import depth_of, layers_of
from moco_jax.detection.cropping import STRIDE
from moco_jax.detection.pixel_loss import pixel_loss
from moco_jax.detection.segmenter import Segmenter, upsampled
from moco_jax.mesh import GROUPS, gathered
from moco_jax.methods.method import Batch, Tree, unchanged, whole_gradient
from moco_jax.models import resolve_dtype

_SIDE = STRIDE + 1  # of an image on which first weights are made: they do not depend on it


class Segmentation(NamedTuple):
    """A segmenter in the same loop as a method; see `methods.method.Method`.

    Attributes:
      init: key -> (params, method_state).
      loss: (params, method_state, batch, key, step) -> (loss, (method_state, metrics)); it draws
        nothing.
      logits: (params, method_state, images (B, H, W, 3)) -> (B, H, W, K) in evaluation mode.
      chance_loss: of a network that holds all classes for equally likely.
      layers: path prefixes, in params, of the ResNet's layers from the first to the last.
      layout: how the method state lies on the mesh.
      recipe: what the log says of it.
      views: none, an image is shown once.
      encode: there are no features to be evaluated.
      guard, after_update, caution: as of a `Method`.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict]]]
    logits: Callable[[Tree, Tree, jax.Array], jax.Array]
    chance_loss: float
    layers: tuple[str, ...]
    layout: Tree
    recipe: str
    views: tuple[ConfigDict, ...] = ()
    encode: None = None
    guard: Callable[[jax.Array, Tree, Tree], tuple[jax.Array, Tree, Tree]] = whole_gradient
    after_update: Callable[[Any, Any], Any] = unchanged
    caution: str = ""


def make(config: ConfigDict, classes: int) -> Segmentation:
    """MoCo's FCN; `config.segmentation`, `model.name`, `model.resnet.width` and `dtype` are read.

    Args:
      config: of the run.
      classes: K.

    Raises:
      InputError: the network is no ResNet.
    """
    s, depth = config.segmentation, depth_of(config)
    dtype = resolve_dtype(config.model.dtype)
    net = Segmenter(classes, depth, config.model.resnet.width, s.channels, dtype)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        variables = net.init(key, jnp.zeros((1, _SIDE, _SIDE, 3)), train=False)
        return variables["params"], {"stats": variables["batch_stats"]}

    def variables_of(params: Tree, state: Tree) -> dict[str, Tree]:
        return {"params": gathered(params), "batch_stats": state["stats"]}

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del key, step
        small, new = net.apply(
            variables_of(params, state), batch.view(0), train=True, mutable=["batch_stats"]
        )
        stats = jax.lax.stop_gradient(new["batch_stats"])
        return pixel_loss(upsampled(small), batch["labels"]), ({"stats": stats}, {})

    def logits(params: Tree, state: Tree, images: jax.Array) -> jax.Array:
        return upsampled(net.apply(variables_of(params, state), images, train=False))

    return Segmentation(
        init=init,
        loss=loss,
        logits=logits,
        chance_loss=math.log(classes),
        layers=layers_of("fpn", depth),
        layout=GROUPS,
        recipe=f"{classes} classes of pixels by a dilated FCN, crops {s.crop[0]} x {s.crop[1]}",
    )
