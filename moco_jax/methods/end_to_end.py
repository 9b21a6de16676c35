"""End-to-end training (arXiv:1911.05722, figure 2a): the batch's own keys are the dictionary.

B batch, C features. Queries and keys come from one encoder, and the gradient passes through both;
the paper leaves open whether the two share their weights.
"""

import jax

from moco_jax import mesh
from moco_jax.config import ConfigDict
from moco_jax.methods.method import Batch, Facts, Method, Tree
from moco_jax.methods.networks import make_networks, refuse_predictor, shuffled_keys
from moco_jax.ops.losses import chance_info_nce, contrastive_loss, feature_std, l2_normalize


def make(config: ConfigDict, facts: Facts) -> Method:
    """End-to-end training; InputError for options that do not fit it.

    `config.method` and `config.model` are read here.

    Args:
      config: of the run.
      facts: of its data and length.
    """
    t = config.method
    refuse_predictor(t)
    nets = make_networks(config)

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del step  # no schedule
        q, stats = nets.project(params, state["stats"], batch, (0,))
        q = l2_normalize(q[0])
        # As in MoCo, BatchNorm could tell which key is the query's (section 3.3).
        order = jax.random.fold_in(key, 1) if t.shuffle_bn else None
        k, stats = shuffled_keys(nets, params, stats, batch, (1,), order)
        value, top1 = contrastive_loss(q, k[0], t.temperature)
        metrics = {"contrast_top1": top1, "feature_std": feature_std(q)}
        # The factor 2 tau of `contrastive_loss` is v3's.
        value = value / (2 * t.temperature)
        return value, ({"stats": jax.lax.stop_gradient(stats)}, metrics)

    return Method(
        init=lambda key: nets.init_state(key, facts.image_shape),
        loss=loss,
        encode=nets.encode_state,
        chance_loss=chance_info_nce(config.data.batch_size - 1),
        layers=nets.layers,
        views=(config.data.view1, config.data.view2),
        layout={"stats": mesh.GROUPS},
        recipe=f"tau {t.temperature:g}, {config.data.batch_size - 1} negatives",
    )
