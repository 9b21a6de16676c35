"""MoCo v1 (arXiv:1911.05722, algorithm 1) and v2 (2003.04297), with the symmetric variant.

Both are this method under other recipes. V directions, B batch, C features, K keys in the queue.
"""

import logging

import jax
import jax.numpy as jnp

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.mesh import whole
from moco_jax.methods.base import Method, Tree, Views, make_networks
from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.losses import chance_info_nce, feature_std, info_nce, l2_normalize
from moco_jax.ops.queue import enqueue, init_queue

log = logging.getLogger(__name__)

QUEUE = 2**31  # sets the queue's random key apart from those that `Networks.init` splits


def make(
    config: ConfigDict, image_shape: tuple[int, ...], views: Views, steps: int, classes: int = 0
) -> Method:
    """MoCo with a queue of keys.

    Args:
      config: `method` and `model` are read here.
      image_shape: (S, S, channels) of a view.
      views: gives the augmented views of a batch.
      steps: of the whole run, for the EMA schedule.
      classes: not used.
    """
    del classes
    t = config.method
    nets = make_networks(config)
    if nets.predictor is not None:
        raise InputError("method.predictor.layers must be 0: method 'moco' has no predictor")
    if t.queue_size < 1:
        raise InputError(f"method.queue_size={t.queue_size} must be at least 1")
    ema = make_ema_schedule(t.ema_schedule, t.ema, steps)
    query_views, key_views = ((0, 1), (1, 0)) if t.symmetric else ((0,), (1,))

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = nets.init(key, jnp.zeros((1, *image_shape)))
        state = {
            "stats": stats,
            "target": jax.tree.map(jnp.copy, {"params": params, "stats": stats}),
            "queue": init_queue(jax.random.fold_in(key, QUEUE), t.queue_size, t.projector.out),
            "queue_ptr": jnp.zeros((), jnp.int32),
        }
        return params, state

    def keys(target: Tree, stats: Tree, batch: dict, key: jax.Array):
        """Keys (V, B, C), whole on all devices; their BatchNorm groups are shuffled (v1, 3.3)."""
        order = whole(jax.random.permutation(key, batch["index"].shape[0]))
        if t.shuffle_bn:
            # Shuffled before augmentation, so that what moves between devices is uint8; a view
            # depends on the image's own key alone, not on its place in the batch.
            batch = jax.tree.map(lambda x: x[order], batch)
        k, stats = nets.project(target, stats, views, batch, key_views)
        k = whole(jax.lax.stop_gradient(l2_normalize(k)))
        return whole(k[:, jnp.argsort(order)]) if t.shuffle_bn else k, stats

    def loss(params: Tree, state: Tree, batch: dict, key: jax.Array, step: jax.Array):
        m = ema(step)
        target = ema_update(state["target"]["params"], jax.lax.stop_gradient(params), m)
        q, stats = nets.project(params, state["stats"], views, batch, query_views)
        q = l2_normalize(q)
        key = jax.random.fold_in(key, 1)
        k, target_stats = keys(target, state["target"]["stats"], batch, key)
        losses, top1s = zip(
            *(info_nce(*pair, state["queue"], t.temperature) for pair in zip(q, k, strict=True)),
            strict=True,
        )
        # Of view 1 first, as the CIFAR-10 demonstration enqueues.
        new_keys = k[::-1].reshape(-1, k.shape[-1])
        queue, ptr = enqueue(state["queue"], state["queue_ptr"], new_keys)
        new_state = {
            "stats": jax.lax.stop_gradient(stats),
            "target": {"params": target, "stats": target_stats},
            "queue": queue,
            "queue_ptr": ptr,
        }
        metrics = {
            "contrast_top1": jnp.stack(top1s).mean(),
            "feature_std": jax.vmap(feature_std)(q).mean(),
            "ema": m,
        }
        return jnp.stack(losses).sum(), (new_state, metrics)

    return Method(
        init=init,
        loss=loss,
        encode=lambda params, state, images: nets.encode(params, state["stats"], images),
        chance_loss=len(query_views) * chance_info_nce(t.queue_size),
        layers=tuple(f"backbone/{name}" for name in nets.backbone.layers),
        recipe=f"tau {t.temperature:g}, m {t.ema:g} {t.ema_schedule}, queue {t.queue_size}",
    )


def warn_about_queue(config: ConfigDict, images: int) -> None:
    """Warns when the queue holds so much of the data that a query's own image is a negative."""
    t, batch = config.method, config.data.batch_size
    if t.name == "moco" and t.queue_size >= images - batch:
        log.warning(
            "method.queue_size=%d is at or above the %d training images less the batch of %d: the "
            "queue holds other views of the same image as negatives. A quarter of the data or "
            "less is usual (%d).",
            t.queue_size, images, batch, max(images // 4, 1),
        )  # fmt: skip
