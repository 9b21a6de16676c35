"""The registry of backbones: a new one is a file and a line here."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import DTYPES, ConfigDict, choose
from moco_jax.models.pixels import Pixels
from moco_jax.models.resnet import DEPTHS, make_resnet
from moco_jax.models.vit import SIZES, make_vit

BACKBONES = {
    **{f"resnet{depth}": partial(make_resnet, depth) for depth in DEPTHS},
    **{f"vit_{size}": partial(make_vit, size) for size in SIZES},
    "pixels": lambda *_: Pixels(),
}


def make_backbone(
    model: ConfigDict, image_size: int, bn_groups: int, dtype: jnp.dtype
) -> nn.Module:
    """Builds the backbone that `config.model` describes.

    Args:
      model: the record; of it, only the part of the named family is read.
      image_size: pixels, of the square images.
      bn_groups: groups of the batch with BatchNorm statistics of their own.
      dtype: of the computation.

    Returns:
      A module `(images (B, H, W, channels), train) -> features (B, num_features)`, float32, that
      has the attributes `num_features` and `layers`, the path prefixes, in its parameters, of its
      layers from the first to the last. What follows the last one is named `norm`.

    Raises:
      InputError: an unknown name or value, or sizes that do not fit each other.
    """
    name = choose("model.name", model.name, BACKBONES)
    return BACKBONES[name](model, image_size, bn_groups, dtype)


def resolve_dtype(name: str) -> jnp.dtype:
    """The dtype of the computation; 'auto' is bfloat16 on GPU and TPU, float32 on CPU."""
    if choose("model.dtype", name, DTYPES) == "auto":
        name = "bfloat16" if jax.default_backend() in ("gpu", "tpu") else "float32"
    return jnp.dtype(name)
