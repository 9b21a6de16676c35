"""What a checkpoint holds, under our names and in our layouts, whatever file it came from."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from moco_jax.checkpoint import named
from moco_jax.config import ConfigDict
from moco_jax.convert.match import Shapes
from moco_jax.convert.names import ONLINE, TARGET
from moco_jax.errors import CheckpointError
from moco_jax.methods.networks import make_networks, target_of
from moco_jax.models.tokens import sincos_position
from moco_jax.models.vit import SIZES

ENCODERS = ("query", "key")
# What others call the encoder that is trained, and the moving average of it.
ROLES = {
    **dict.fromkeys(("query", "student", "online"), "query"),
    **dict.fromkeys(("key", "momentum", "teacher", "ema", "target"), "key"),
}


class Contents(NamedTuple):
    """A checkpoint.

    Attributes:
      format: where it comes from, a key of `formats.FORMATS`.
      config: the recipe; what the file does not say has its default.
      leaves: arrays by name. Names are those of a TrainState; further there are, beside each 'mean'
        and 'var' of a BatchNorm, a 'count' of the batches seen (int64), 'constants/...' for
        what only PyTorch counts as a parameter, and 'optimizer/...': 'trace' (momentum) or 'mu',
        'nu' and 'count' (Adam), each by parameter.
      method: its name where the file is of a pre-training, with its state; else ''.
      encoder: which one lies under 'params', 'query' or 'key'.
      epoch: passes over the data so far; None where unknown.
      step: updates so far.
      extra: what else PyTorch's file had and ours has no use for: the loss scaler's state.
      partial: whether something was left out on request.
      classes: names of the classifier's or detector's classes, where the file tells them.
      categories: numbers that COCO's file has for them, where there was one.
    """

    format: str
    config: ConfigDict
    leaves: dict[str, np.ndarray]
    method: str = ""
    encoder: str = "query"
    epoch: float | None = None
    step: int = 0
    extra: dict[str, Any] = {}
    partial: bool = False
    classes: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """Batches consumed so far: updates, and steps that were left out."""
        return self.step + int(self.leaves.get("skipped", (0, 0))[0])

    def holds(self, prefix: str) -> bool:
        """Whether any leaf lies under a '/'-terminated prefix."""
        return any(name.startswith(prefix) for name in self.leaves)


def views_per_step(config: ConfigDict) -> int:
    """Forward passes of each encoder in a training step."""
    t = config.method
    passes = {"moco": 1 + t.symmetric, "swav": 2 + t.swav.small_views}
    passes |= dict.fromkeys(("moco_v3", "byol", "simclr", "end_to_end"), 2)
    return passes.get(t.name, 1) if config.protocol == "pretraining" else 1


def select(contents: Contents, encoder: str | None) -> Contents:
    """Keeps one encoder, the classifier if it belongs to it, and nothing of the training.

    Args:
      contents: of any format.
      encoder: key of ROLES, or None: the query encoder, where there is a choice.

    Raises:
      CheckpointError: there is no such encoder.
    """
    both = contents.holds("params/backbone/") and contents.holds(TARGET["params"] + "/")
    have = ENCODERS if both else (contents.encoder,)
    encoder = ROLES[encoder] if encoder else have[0]
    if encoder not in have:
        raise CheckpointError(f"there is no {encoder} encoder in it, only the {have[0]} encoder")
    source = TARGET if both and encoder == "key" else ONLINE
    leaves = {}
    for name, leaf in contents.leaves.items():
        for collection, prefix in source.items():
            network = name.removeprefix(prefix + "/")
            if network != name and not network.startswith("predictor/"):
                leaves[f"{ONLINE[collection]}/{network}"] = leaf
        if name.startswith("optimizer/") and "/classifier/" in name:
            leaves[name] = leaf
    return contents._replace(leaves=leaves, encoder=encoder)


def complete(contents: Contents) -> Contents:
    """Adds what PyTorch stores and a TrainState does not: counts of batches, fixed positions."""
    leaves = dict(contents.leaves)
    batches = np.asarray(contents.step * views_per_step(contents.config), np.int64)
    for name in contents.leaves:
        if name.endswith("/mean") and "/stats/" in name:
            leaves.setdefault(name.removesuffix("mean") + "count", batches)
    model = contents.config.model
    if model.name.startswith("vit") and model.vit.position == "sincos":
        for collections in (ONLINE, TARGET):
            if contents.holds(f"{collections['params']}/backbone/"):
                table = position_table(contents.config)
                leaves.setdefault(f"{collections['constants']}/backbone/pos_embed", table)
    return contents._replace(leaves=leaves)


def position_table(config: ConfigDict) -> np.ndarray:
    """The fixed position embedding (1, N, C), with a zero for a class token, if there is one."""
    v, side = config.model.vit, config.data.image_size // config.model.vit.patch
    table = sincos_position(side, side, width_of(config.model))
    return np.pad(table, ((0, 0), (int(v.pool == "cls"), 0), (0, 0)))


def width_of(model: ConfigDict) -> int:
    """Features of a token of a ViT."""
    return model.vit.width or SIZES[model.name.removeprefix("vit_")].width


def heads_of(model: ConfigDict) -> int:
    """Attention heads of a ViT."""
    return int(model.vit.heads or SIZES[model.name.removeprefix("vit_")].heads)


def shapes_of(config: ConfigDict, channels: int, classes: int = 0) -> Shapes:
    """Shapes of all leaves of the networks that a config describes, with one BatchNorm group.

    Args:
      config: the recipe.
      channels: of the images.
      classes: outputs of the classifier; 0: none.

    Raises:
      InputError: sizes that do not fit each other.
    """
    config = config.copy_and_resolve_references().unlock()
    config.method.bn_group_size = 0
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    networks = make_networks(config)
    params, stats = jax.eval_shape(networks.init, jax.random.key(0), images)
    tree = {
        "params": params,
        "method_state": {
            "stats": stats,
            "target": {"params": target_of(params), "stats": target_of(stats)},
        },
    }
    shapes = {name: leaf.shape for name, leaf in named(tree).items()}
    counts = {
        name.removesuffix("mean") + "count": ()
        for name in shapes
        if name.endswith("/mean") and "/stats/" in name
    }
    positions = {}
    if config.model.name.startswith("vit") and config.model.vit.position == "sincos":
        shape = position_table(config).shape
        positions = {f"{c['constants']}/backbone/pos_embed": shape for c in (ONLINE, TARGET)}
    features = networks.backbone.num_features
    others = {
        "params/classifier/kernel": (features, classes),
        "params/classifier/bias": (classes,),
        "params/pooler/kernel": (features, features),
        "params/pooler/bias": (features,),
        "method_state/queue": (config.method.queue_size, config.method.projector.out),
        "method_state/queue_ptr": (),
    }
    return shapes | counts | positions | others


def side_of(positions: int) -> int:
    """The side of a square grid of so many positions; CheckpointError where it is not square."""
    side = math.isqrt(positions)
    if side * side != positions or not positions:
        raise CheckpointError(f"a position embedding of {positions} patches, which is no square")
    return side
