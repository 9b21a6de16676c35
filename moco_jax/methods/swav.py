"""SwAV (arXiv:2006.09882): a view predicts to which prototypes another view is assigned.

V views, A = 2 of them of full size, B batch, Q queued features, C features, P prototypes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from moco_jax import mesh
from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch, Facts, Method, Rows, Tree
from moco_jax.methods.networks import make_networks, refuse_predictor
from moco_jax.models.tokens import patch_grid
from moco_jax.ops.losses import feature_std, l2_normalize
from moco_jax.ops.queue import init_queue, newest
from moco_jax.ops.sinkhorn import chance_swav, sinkhorn, swapped_prediction

ITERATIONS = 3  # of Sinkhorn (2006.09882, public code)
FULL = 2  # views that are assigned; the small ones only predict
# These set random keys apart from those that `Networks.init` splits.
QUEUE, PROTOTYPES = 2**31, 2**31 + 1


def make(config: ConfigDict, facts: Facts) -> Method:
    """SwAV; `config.method`, `model`, the views of `data` and `mesh.shard_queue` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: options that do not fit the method.
    """
    t, s = config.method, config.method.swav
    _check(config)
    nets = make_networks(config)
    views = (config.data.view1, config.data.view2, *s.small_views * (config.data.small_view,))
    frozen_steps = math.ceil(s.frozen_epochs * facts.steps_per_epoch)
    # Not before it is full of features.
    queue_from = max(
        math.ceil(s.queue_from_epoch * facts.steps_per_epoch),
        math.ceil(t.queue_size / config.data.batch_size),
    )

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = nets.init(key, jnp.zeros((1, *facts.image_shape)))
        prototypes = init_queue(jax.random.fold_in(key, PROTOTYPES), s.prototypes, t.projector.out)
        state = {"stats": stats}
        if t.queue_size:
            queue = init_queue(jax.random.fold_in(key, QUEUE), t.queue_size * FULL, t.projector.out)
            state["queue"] = queue.reshape(t.queue_size, FULL, -1)
            state["queue_ptr"] = jnp.zeros((), jnp.int32)
        return params | {"prototypes": {"kernel": prototypes}}, state

    def assign(scores: jax.Array, queued: jax.Array | None, step: jax.Array) -> jax.Array:
        """Assignments (B, P) of scores (B, P), with those of the queue (Q, P) once it counts."""
        if queued is None:
            return sinkhorn(scores, s.epsilon, ITERATIONS)
        counted = jnp.arange(len(queued) + len(scores)) >= jnp.where(
            step < queue_from, len(queued), 0
        )
        rows = jnp.concatenate([queued, scores])
        return sinkhorn(rows, s.epsilon, ITERATIONS, counted)[len(queued) :]

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del key  # nothing random beyond the views
        z, stats = nets.project(params, state["stats"], batch, range(len(views)))
        z, prototypes = l2_normalize(z), mesh.gathered(params["prototypes"]["kernel"])
        prototypes = jnp.where(step < frozen_steps, jax.lax.stop_gradient(prototypes), prototypes)
        scores = _scores(z, prototypes)
        new_state, queued = {"stats": jax.lax.stop_gradient(stats)}, [None] * FULL
        if t.queue_size:
            queued = _scores(jnp.moveaxis(state["queue"], 1, 0), prototypes)
            new = mesh.whole(jnp.moveaxis(jax.lax.stop_gradient(z[:FULL]), 0, 1))
            rows, new, new_state["queue_ptr"] = newest(t.queue_size, state["queue_ptr"], new)
            new_state["queue"] = Rows(rows, new)
        targets = jnp.stack([assign(*pair, step) for pair in zip(scores[:FULL], queued)])
        targets = jax.lax.stop_gradient(targets)
        nearest, assigned = jnp.argmax(scores[:FULL], -1), jnp.argmax(targets[::-1], -1)
        metrics = {
            "assignment_top1": jnp.mean(nearest == assigned, dtype=jnp.float32),
            "feature_std": jax.vmap(feature_std)(z).mean(),
        }
        return swapped_prediction(scores, targets, t.temperature), (new_state, metrics)

    def after_update(before: Any, after: Any) -> Any:
        """The prototypes back at length 1; in the first epoch as if they had no gradient."""

        def held(path: tuple, old: jax.Array, new: jax.Array) -> jax.Array:
            own = any(getattr(key, "key", None) == "prototypes" for key in path)
            return jnp.where(before.step < frozen_steps, old, new) if own else new

        unit = jax.tree.map(l2_normalize, after.params["prototypes"])
        after = after._replace(params=after.params | {"prototypes": unit})
        params, opt_state = (
            jax.tree_util.tree_map_with_path(held, getattr(before, name), getattr(after, name))
            for name in ("params", "opt_state")
        )
        return after._replace(params=params, opt_state=opt_state)

    split_queue = mesh.Layout("rows", "method.queue_size")
    queue_layout = {"queue": split_queue if config.mesh.shard_queue else mesh.WHOLE}
    return Method(
        init=init,
        loss=loss,
        encode=nets.encode_state,
        chance_loss=chance_swav(s.prototypes),
        layers=nets.layers,
        views=views,
        layout={"stats": mesh.GROUPS}
        | (queue_layout | {"queue_ptr": mesh.WHOLE} if t.queue_size else {}),
        after_update=after_update,
        recipe=f"{s.prototypes} prototypes, tau {t.temperature:g}, epsilon {s.epsilon:g}, "
        f"{s.small_views} small views, queue {t.queue_size}",
    )


def _scores(z: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Cosines (V, B, P) of unit features (V, B, C) and prototypes (P, C)."""
    return jnp.einsum("vbc,pc->vbp", z, prototypes, precision="highest")


def _check(config: ConfigDict) -> None:
    t, s, model = config.method, config.method.swav, config.model
    refuse_predictor(t)
    size = config.data.image_size
    for view in (config.data.view1, config.data.view2):
        if view.size not in (0, size):
            raise InputError(f"data.view1 and view2: size={view.size}; expected 0 or {size}, "
                             f"data.image_size, with method 'swav'")  # fmt: skip
    small = config.data.small_view.size or size
    if s.small_views and model.name.startswith("vit"):
        patch_grid(small, small, model.vit.patch)
        if model.vit.position == "learned" and small != size:
            raise InputError(
                f"model.vit.position='learned' has a position for each patch of {size} pixels: "
                f"method.swav.small_views of {small} need 'sincos' or 'none'"
            )
