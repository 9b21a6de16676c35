"""What the loop trains of `protocol='segmentation'`: a class for every pixel.

B images, H, W height and width of their crops, K classes.
"""

import math

import jax
import jax.numpy as jnp

from moco_jax.config import ConfigDict
from moco_jax.detection.architecture import depth_of, layers_of
from moco_jax.detection.cropping import STRIDE
from moco_jax.detection.dense_task import DenseTask, variables_of
from moco_jax.detection.pixel_loss import pixel_loss
from moco_jax.detection.segmenter import Segmenter, upsampled
from moco_jax.mesh import GROUPS
from moco_jax.methods.method import Batch, Tree
from moco_jax.models import resolve_dtype

_SIDE = STRIDE + 1  # of an image on which first weights are made: they do not depend on it


def make(config: ConfigDict, classes: int) -> DenseTask:
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

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del key, step
        small, new = net.apply(
            variables_of(params, state["stats"]), batch.view(0), train=True, mutable=["batch_stats"]
        )
        stats = jax.lax.stop_gradient(new["batch_stats"])
        return pixel_loss(upsampled(small), batch["labels"]), ({"stats": stats}, {})

    return DenseTask(
        init=init,
        loss=loss,
        net=net,
        chance_loss=math.log(classes),
        layers=layers_of("fpn", depth),
        layout=GROUPS,
        recipe=f"{classes} classes of pixels by a dilated FCN, crops {s.crop[0]} x {s.crop[1]}",
    )
