"""MoCo v3 (arXiv:2104.02057, algorithm 1): no queue, symmetrized, a predictor.

V views, B batch, C features: q and k are (V, B, C).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from moco_jax import mesh
from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch, Facts, Method, Tree
from moco_jax.methods.networks import make_networks, target_of
from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.losses import chance_v3, contrastive_loss, feature_std, l2_normalize

# (q, k), both (B, C) of length 1 -> the loss of one direction, and the share of queries whose own
# key is the nearest.
Direction = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make(config: ConfigDict, facts: Facts) -> Method:
    """MoCo v3; `config.method` and `config.model` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: options that do not fit the method.
    """
    t = config.method
    return symmetrized(
        config,
        facts,
        direction=partial(contrastive_loss, temperature=t.temperature),
        chance=chance_v3(config.data.batch_size, t.temperature),
        recipe=f"tau {t.temperature:g}, m {t.ema:g} {t.ema_schedule}",
    )


def symmetrized(
    config: ConfigDict, facts: Facts, direction: Direction, chance: float, recipe: str
) -> Method:
    """A method whose predictions of one view's features meet the other's keys, both ways.

    The keys are of a momentum encoder, which is moved before they are made.

    Args:
      config: `method` and `model` are read here.
      facts: of the run.
      direction: the loss of one direction, to which the other is added.
      chance: the loss of both directions of a network whose features say nothing.
      recipe: see `Method`.

    Raises:
      InputError: options that do not fit.
    """
    t = config.method
    nets = make_networks(config)
    if t.predictor.layers and t.predictor.out != t.projector.out:
        raise InputError(
            f"method.predictor.out={t.predictor.out} must equal "
            f"method.projector.out={t.projector.out}: queries are compared with keys"
        )
    ema = make_ema_schedule(t.ema_schedule, t.ema, facts.steps)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = nets.init(key, jnp.zeros((1, *facts.image_shape)))
        target = {"params": target_of(params), "stats": target_of(stats)}
        return params, {"stats": stats, "target": jax.tree.map(jnp.copy, target)}

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del key  # nothing random beyond the views
        q, stats = nets.project(params, state["stats"], batch, (0, 1))
        if nets.predictor is not None:
            q, stats = nets.head("predictor", params, stats, q)
        m = ema(step)
        online = jax.lax.stop_gradient(target_of(params))
        target = ema_update(state["target"]["params"], online, m)
        k, target_stats = nets.project(target, state["target"]["stats"], batch, (0, 1))
        q1, q2 = l2_normalize(q)
        k1, k2 = mesh.whole(jax.lax.stop_gradient(l2_normalize(k)))
        loss1, top1 = direction(q1, k2)
        loss2, top2 = direction(q2, k1)
        new_state = {
            "stats": jax.lax.stop_gradient(stats),
            "target": {"params": target, "stats": target_stats},
        }
        metrics = {
            "contrast_top1": (top1 + top2) / 2,
            "feature_std": (feature_std(q1) + feature_std(q2)) / 2,
            "ema": m,
        }
        return loss1 + loss2, (new_state, metrics)

    return Method(
        init=init,
        loss=loss,
        encode=nets.encode_state,
        chance_loss=chance,
        layers=nets.layers,
        views=(config.data.view1, config.data.view2),
        layout={
            "stats": mesh.GROUPS,
            "target": {"params": mesh.PARAMETERS, "stats": mesh.GROUPS},
        },
        recipe=recipe,
    )
