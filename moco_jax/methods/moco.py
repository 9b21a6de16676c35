"""MoCo v1 (arXiv:1911.05722, algorithm 1) and v2 (2003.04297), with the symmetric variant.

Both are this method under other recipes. B batch, C features, K keys in the queue.
"""

import logging

import jax
import jax.numpy as jnp

from moco_jax.config import ConfigDict
from moco_jax.methods.base import Method, Tree, Views, make_networks
from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.losses import chance_info_nce, feature_std, info_nce, l2_normalize
from moco_jax.ops.queue import enqueue, init_queue

log = logging.getLogger(__name__)


def make(config: ConfigDict, image_shape: tuple[int, ...], views: Views, steps: int) -> Method:
    """MoCo with a queue of keys.

    Args:
      config: `method` and `model` are read here.
      image_shape: (S, S, channels) of a view.
      views: gives the augmented views of a batch.
      steps: of the whole run, for the EMA schedule.
    """
    t = config.method
    nets = make_networks(config)
    if nets.predictor is not None:
        raise ValueError("method.predictor.layers must be 0: method 'moco' has no predictor")
    if t.queue_size < 1:
        raise ValueError(f"method.queue_size={t.queue_size} must be at least 1")
    ema = make_ema_schedule(t.ema_schedule, t.ema, steps)
    directions = ((0, 1), (1, 0)) if t.symmetric else ((0, 1),)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        net_key, queue_key = jax.random.split(key)
        params, stats = nets.init(net_key, jnp.zeros((1, *image_shape)))
        state = {
            "stats": stats,
            "target": jax.tree.map(jnp.copy, {"params": params, "stats": stats}),
            "queue": init_queue(queue_key, t.queue_size, t.projector.out),
            "queue_ptr": jnp.zeros((), jnp.int32),
        }
        return params, state

    def keys(target: Tree, stats: Tree, batch: dict, view: int, key: jax.Array):
        """Keys of one view (B, C), their BatchNorm groups formed in a shuffled order (v1, 3.3)."""
        if not t.shuffle_bn:
            return nets.project(target, stats, views(batch, view))
        order = jax.random.permutation(key, batch["index"].shape[0])
        # Shuffled before augmentation, so that what moves between devices is uint8; a view
        # depends on the image's own key alone, not on its place in the batch.
        shuffled = jax.tree.map(lambda x: x[order], batch)
        k, stats = nets.project(target, stats, views(shuffled, view))
        return k[jnp.argsort(order)], stats

    def loss(params: Tree, state: Tree, batch: dict, key: jax.Array, step: jax.Array):
        m = ema(step)
        target = ema_update(state["target"]["params"], jax.lax.stop_gradient(params), m)
        stats, target_stats = state["stats"], state["target"]["stats"]
        losses, top1s, stds, new_keys = [], [], [], []
        for view_q, view_k in directions:
            q, stats = nets.project(params, stats, views(batch, view_q))
            k, target_stats = keys(
                target, target_stats, batch, view_k, jax.random.fold_in(key, view_k)
            )
            q, k = l2_normalize(q), jax.lax.stop_gradient(l2_normalize(k))
            value, top1 = info_nce(q, k, state["queue"], t.temperature)
            losses.append(value)
            top1s.append(top1)
            stds.append(feature_std(q))
            new_keys.insert(0, k)  # of view 1 first, as the CIFAR-10 demonstration enqueues
        queue, ptr = enqueue(state["queue"], state["queue_ptr"], jnp.concatenate(new_keys))
        new_state = {
            "stats": jax.lax.stop_gradient(stats),
            "target": {"params": target, "stats": target_stats},
            "queue": queue,
            "queue_ptr": ptr,
        }
        metrics = {
            "contrast_top1": jnp.stack(top1s).mean(),
            "feature_std": jnp.stack(stds).mean(),
            "ema": m,
        }
        return jnp.stack(losses).sum(), (new_state, metrics)

    return Method(
        init=init,
        loss=loss,
        encode=lambda params, state, images: nets.encode(params, state["stats"], images),
        chance_loss=len(directions) * chance_info_nce(t.queue_size),
        layers=tuple(f"backbone/{name}" for name in nets.backbone.layers),
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
