"""MoCo v1 (arXiv:1911.05722, algorithm 1) and v2 (2003.04297), with the symmetric variant.

Both are this method under other recipes. V directions, B batch, C features, K keys in the queue.
"""

import jax
import jax.numpy as jnp

from moco_jax import mesh
from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch, Facts, Method, Rows, Tree
from moco_jax.methods.networks import make_networks, refuse_predictor, shuffled_keys
from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.losses import chance_info_nce, feature_std, info_nce, l2_normalize
from moco_jax.ops.queue import init_queue, newest

QUEUE = 2**31  # sets the queue's random key apart from those that `Networks.init` splits


def make(config: ConfigDict, facts: Facts) -> Method:
    """MoCo with a queue of keys; `config.method`, `model` and `mesh.shard_queue` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: options that do not fit the method.
    """
    t = config.method
    nets = make_networks(config)
    refuse_predictor(t)
    added = config.data.batch_size * (2 if t.symmetric else 1)
    if t.queue_size < added:
        raise InputError(
            f"method.queue_size={t.queue_size}: expected at least the {added} keys that a step adds"
        )
    ema = make_ema_schedule(t.ema_schedule, t.ema, facts.steps)
    query_views, key_views = ((0, 1), (1, 0)) if t.symmetric else ((0,), (1,))

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = nets.init(key, jnp.zeros((1, *facts.image_shape)))
        state = {
            "stats": stats,
            "target": jax.tree.map(jnp.copy, {"params": params, "stats": stats}),
            "queue": init_queue(jax.random.fold_in(key, QUEUE), t.queue_size, t.projector.out),
            "queue_ptr": jnp.zeros((), jnp.int32),
        }
        return params, state

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        m = ema(step)
        target = ema_update(state["target"]["params"], jax.lax.stop_gradient(params), m)
        q, stats = nets.project(params, state["stats"], batch, query_views)
        q = l2_normalize(q)
        order = jax.random.fold_in(key, 1) if t.shuffle_bn else None
        k, target_stats = shuffled_keys(
            nets, target, state["target"]["stats"], batch, key_views, order
        )
        k = jax.lax.stop_gradient(k)
        losses, top1s = zip(
            *(info_nce(*pair, state["queue"], t.temperature) for pair in zip(q, k, strict=True)),
            strict=True,
        )
        # Of view 1 first, as the CIFAR-10 demonstration enqueues.
        new_keys = k[::-1].reshape(-1, k.shape[-1])
        rows, new_keys, ptr = newest(t.queue_size, state["queue_ptr"], new_keys)
        new_state = {
            "stats": jax.lax.stop_gradient(stats),
            "target": {"params": target, "stats": target_stats},
            "queue": Rows(rows, new_keys),
            "queue_ptr": ptr,
        }
        metrics = {
            "contrast_top1": jnp.stack(top1s).mean(),
            "feature_std": jax.vmap(feature_std)(q).mean(),
            "ema": m,
        }
        return jnp.stack(losses).sum(), (new_state, metrics)

    split_queue = mesh.Layout("rows", "method.queue_size")
    return Method(
        init=init,
        loss=loss,
        encode=nets.encode_state,
        chance_loss=len(query_views) * chance_info_nce(t.queue_size),
        layers=nets.layers,
        views=(config.data.view1, config.data.view2),
        layout={
            "stats": mesh.GROUPS,
            "target": {"params": mesh.PARAMETERS, "stats": mesh.GROUPS},
            "queue": split_queue if config.mesh.shard_queue else mesh.WHOLE,
            "queue_ptr": mesh.WHOLE,
        },
        recipe=f"tau {t.temperature:g}, m {t.ema:g} {t.ema_schedule}, queue {t.queue_size}",
        caution=_about_queue(t.queue_size, config.data.batch_size, facts.images),
    )


def _about_queue(size: int, batch: int, images: int) -> str:
    """Says that the queue holds so much of the data that a query's own image is a negative."""
    if size < images - batch:
        return ""
    return (
        f"method.queue_size={size} is at or above the {images} training images less the batch of "
        f"{batch}: the queue holds other views of the same image as negatives. A quarter of the "
        f"data or less is usual ({max(images // 4, 1)})."
    )
