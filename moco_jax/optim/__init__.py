"""Optimizers: a learning-rate schedule, and an optax chain with masks over groups of parameters."""

from moco_jax.optim.chain import make_heads_optimizer, make_optimizer, one_head
from moco_jax.optim.groups import describe_optimizer, layer_scales, parameter_groups
from moco_jax.optim.schedule import make_schedule

__all__ = [
    "describe_optimizer",
    "layer_scales",
    "make_heads_optimizer",
    "make_optimizer",
    "make_schedule",
    "one_head",
    "parameter_groups",
]
