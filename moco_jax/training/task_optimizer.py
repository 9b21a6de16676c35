"""The optimizer of what is trained: of one network, or of many heads on it."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from moco_jax.methods.method import Method
from moco_jax.optim import make_heads_optimizer, make_optimizer, parameter_groups
from moco_jax.protocols.supervised import Supervised


def optimizer_of(
    optim: ConfigDict, task: Method | Supervised, params: Any, schedule: optax.Schedule
) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer, and the tree of bool that says which parameters it leaves alone.

    Args:
      optim: `config.optim`.
      task: what is trained.
      params: the parameters, or their shapes.
      schedule: step -> learning rate.

    Raises:
      InputError: a pattern that is no regular expression or matches nothing.
    """
    if isinstance(task, Supervised) and task.heads:
        frozen = {
            name: jax.tree.map(lambda _, here=name: here != "classifier", part)
            for name, part in params.items()
        }
        return make_heads_optimizer(optim, params, schedule, task.heads), frozen
    groups = parameter_groups(optim, params)
    frozen = jax.tree.map(lambda group: group == "frozen", groups)
    return make_optimizer(optim, params, schedule, task.layers), frozen
