"""SimCLR (arXiv:2002.05709): every other feature of the batch is a negative, and no second encoder.

V = 2 views, B batch, C features. BatchNorm's statistics are of one view, as in MoCo v3's heads, not
of both together, as in the authors' code.
"""

import jax

from moco_jax import mesh
from moco_jax.config import ConfigDict
from moco_jax.methods.method import Batch, Facts, Method, Tree
from moco_jax.methods.networks import make_networks, refuse_predictor
from moco_jax.ops.losses import chance_nt_xent, feature_std, l2_normalize, nt_xent


def make(config: ConfigDict, facts: Facts) -> Method:
    """SimCLR; `config.method` and `config.model` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: options that do not fit the method.
    """
    t = config.method
    refuse_predictor(t)
    nets = make_networks(config)

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del key, step  # nothing random beyond the views, and no schedule
        z, stats = nets.project(params, state["stats"], batch, (0, 1))
        z = l2_normalize(z)
        value, top1 = nt_xent(z, mesh.whole(z), t.temperature)
        metrics = {"contrast_top1": top1, "feature_std": jax.vmap(feature_std)(z).mean()}
        return value, ({"stats": jax.lax.stop_gradient(stats)}, metrics)

    return Method(
        init=lambda key: nets.init_state(key, facts.image_shape),
        loss=loss,
        encode=nets.encode_state,
        chance_loss=chance_nt_xent(config.data.batch_size),
        layers=nets.layers,
        views=(config.data.view1, config.data.view2),
        layout={"stats": mesh.GROUPS},
        recipe=f"tau {t.temperature:g}",
    )
