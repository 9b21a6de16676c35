"""BYOL (arXiv:2006.07733): predictions regress the other view's key, and there are no negatives.

MoCo v3 is its successor, with another loss; all else is there. The average is moved before the
keys are made, which is BYOL's order, one step's coefficient apart. B batch, C features.
"""

import jax

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.methods.method import Facts, Method
from moco_jax.methods.moco_v3 import symmetrized
from moco_jax.ops.losses import contrastive_loss, regression

CHANCE = 4.0  # of both directions, where predictions and keys are at right angles


def make(config: ConfigDict, facts: Facts) -> Method:
    """BYOL; `config.method` and `config.model` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: there is no predictor, or options do not fit each other.
    """
    t = config.method
    if not t.predictor.layers:
        raise InputError(
            "method.predictor.layers=0: method 'byol' collapses without a predictor (2006.07733, "
            "table 5); expected 1 or more, 2 in the paper"
        )

    def direction(q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        # No part of the loss: it shows beside other methods how well images are told apart.
        _, top1 = contrastive_loss(jax.lax.stop_gradient(q), k, 1.0)
        return regression(q, k), top1

    recipe = f"m {t.ema:g} {t.ema_schedule}; a collapsed network has a loss of 0"
    return symmetrized(config, facts, direction, CHANCE, recipe)
