"""A memory bank (arXiv:1805.01978; 1911.05722, figure 2b): one feature of every training image.

An image's view is compared with the image's own row, written an epoch ago, and with K rows drawn
at random; then its row moves towards it. There is one view, one encoder and no momentum encoder.

B batch, N training images, R rows of the bank, K rows drawn, C features.
"""

import jax
import jax.numpy as jnp

from moco_jax import mesh
from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch, Facts, Method, Rows, Tree
from moco_jax.methods.networks import make_networks, refuse_predictor
from moco_jax.ops import bank as banks
from moco_jax.ops.losses import chance_info_nce, feature_std, l2_normalize, one_against_many
from moco_jax.ops.queue import init_queue

MOMENTUM = 0.5  # the share of itself that an image's row keeps (1805.01978, public code)
LOSSES = {"info_nce": chance_info_nce, "nce": banks.chance_nce}
BANK = 2**31  # sets the bank's random key apart from those that `Networks.init` splits
# R is a multiple of it, so that most numbers of devices can split the bank, and one checkpoint
# serves them all. The rows beyond N are never read.
MULTIPLE = 1024


def make(config: ConfigDict, facts: Facts) -> Method:
    """Training against a memory bank; `config.method` and `config.model` are read here.

    The negatives are drawn once for a batch. With InfoNCE an image's own row is no negative of it;
    with NCE draws are noise over all images, the own included. Z is estimated from the first batch.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: options that do not fit the method.
    """
    t = config.method
    refuse_predictor(t)
    chance = LOSSES[choose("method.bank_loss", t.bank_loss, LOSSES)]
    if t.queue_size < 1:
        raise InputError(f"method.queue_size={t.queue_size} must be at least 1")
    nets = make_networks(config)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, stats = nets.init(key, jnp.zeros((1, *facts.image_shape)))
        rows = -(-facts.images // MULTIPLE) * MULTIPLE
        bank = init_queue(jax.random.fold_in(key, BANK), rows, t.projector.out)
        constant = {"log_z": jnp.zeros(())} if t.bank_loss == "nce" else {}
        return params, {"stats": stats, "bank": bank, **constant}

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        q, stats = nets.project(params, state["stats"], batch, (0,))
        q, index = l2_normalize(q[0]), batch["index"]
        drawn = mesh.whole(banks.draw_rows(key, t.queue_size, facts.images))
        own, others = state["bank"][index], mesh.whole(state["bank"][drawn])
        logits = banks.bank_logits(q, own, others, t.temperature)
        if t.bank_loss == "nce":
            first = jax.lax.stop_gradient(banks.log_partition(*logits, facts.images))
            log_z = jnp.where(step == 0, first, state["log_z"])
            (value, top1), constant = banks.nce(*logits, log_z, facts.images), {"log_z": log_z}
        else:
            others = jnp.where(index[:, None] == drawn[None], -jnp.inf, logits[1])
            (value, top1), constant = one_against_many(logits[0], others), {}
        rows, new = banks.renewed_rows(state["bank"], index, jax.lax.stop_gradient(q), MOMENTUM)
        state = {
            "stats": jax.lax.stop_gradient(stats),
            "bank": Rows(mesh.whole(rows), mesh.whole(new)),
            **constant,
        }
        return value, (state, {"contrast_top1": top1, "feature_std": feature_std(q)})

    constant = {"log_z": mesh.WHOLE} if t.bank_loss == "nce" else {}
    return Method(
        init=init,
        loss=loss,
        encode=nets.encode_state,
        chance_loss=chance(t.queue_size),
        layers=nets.layers,
        views=(config.data.view1,),
        layout={"stats": mesh.GROUPS, "bank": mesh.GROUPS, **constant},
        recipe=f"{t.bank_loss}, tau {t.temperature:g}, {t.queue_size} of {facts.images} rows drawn",
        caution=_about_rows(t.queue_size, facts.images),
    )


def _about_rows(drawn: int, images: int) -> str:
    """Says that a row must be drawn more than once."""
    if drawn <= images:
        return ""
    return (
        f"method.queue_size={drawn} rows are drawn from a bank of {images} images: an image counts "
        f"several times as a negative. A quarter of the data or less is usual "
        f"({max(images // 4, 1)})."
    )
