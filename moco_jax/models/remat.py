"""Rematerialization: which of a block's intermediate values its gradient finds in memory."""

from typing import Any

import jax
from flax import linen as nn

from moco_jax.config import choose

_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def _products(primitive: Any, *args: Any, **params: Any) -> bool:
    return primitive is jax.lax.conv_general_dilated_p or _dots(primitive, *args, **params)


# 'products' keeps what matrix products with parameters and convolutions give, and computes the
# rest again: normalization, activations, attention weights. 'full' keeps a block's input alone.
POLICIES = {
    "none": None,
    "products": _products,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialized(block: type[nn.Module], name: str) -> type[nn.Module]:
    """The module class `block`, called as (x, train), under the policy `model.remat`.

    Args:
      block: class of the module.
      name: of the policy.

    Raises:
      InputError: an unknown policy.
    """
    if choose("model.remat", name, POLICIES) == "none":
        return block
    return nn.remat(block, policy=POLICIES[name], static_argnums=(2,))  # 0: the module, 2: train
