"""The networks that all methods share, and how they run on the views of a batch.

B batch, V views, C features of the projection, F features of the backbone, S image size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.mesh import by_rows, gathered, whole
from moco_jax.methods.method import Batch, Tree
from moco_jax.models import make_backbone, resolve_dtype
from moco_jax.models.heads import make_head
from moco_jax.models.norm import renewed_in_turn
from moco_jax.ops.losses import l2_normalize

Key = jax.Array | None


class Networks(NamedTuple):
    """Backbone, projector and (online network only) predictor; each a separate module.

    In training the backbone runs in `slices` of the batch, one after the other.
    """

    backbone: nn.Module
    projector: nn.Module
    predictor: nn.Module | None
    slices: int = 1

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Tree, Tree]:
        """Parameters and BatchNorm statistics of all networks, each a dict by network.

        Args:
          key: random.
          images: (B, S, S, C) float32; only the shape counts.
        """
        params, stats, x = {}, {}, images
        for name in ("backbone", "projector", "predictor"):
            net = getattr(self, name)
            if net is None:
                continue
            key, sub = jax.random.split(key)
            x, variables = net.init_with_output(sub, x, train=False)
            params[name] = variables.get("params", {})
            stats[name] = variables.get("batch_stats", {})
        return params, stats

    def init_state(self, key: jax.Array, image_shape: Sequence[int]) -> tuple[Tree, Tree]:
        """Parameters, and a method state that has BatchNorm's statistics alone.

        Args:
          key: random.
          image_shape: (S, S, C).
        """
        params, stats = self.init(key, jnp.zeros((1, *image_shape)))
        return params, {"stats": stats}

    @property
    def layers(self) -> tuple[str, ...]:
        """The backbone's layers as `Method.layers` names them."""
        return tuple(f"backbone/{name}" for name in self.backbone.layers)

    def apply(
        self, name: str, params: Tree, stats: Tree, x: jax.Array, train: bool
    ) -> tuple[jax.Array, Tree]:
        """Runs one network; returns its output and the statistics of all with its own renewed.

        Args:
          name: 'backbone', 'projector' or 'predictor'.
          params: by network.
          stats: by network.
          x: what it takes.
          train: whether BatchNorm takes the batch's statistics.
        """
        y, new = _apply(getattr(self, name), gathered(params[name]), stats[name], x, train)
        return y, stats | {name: new}

    def features(
        self, params: Tree, stats: Tree, batch: Batch, which: Sequence[int], key: Key = None
    ) -> tuple[jax.Array, Tree]:
        """The backbone's features (V, B, F) of some views of a batch, in training.

        Args:
          params: by network.
          stats: by network.
          batch: whose views they are, of any sizes.
          which: V of `Method.views`.
          key: of what is random in the backbone: stochastic depth; None: nothing is.
        """
        net = self.backbone
        if key is None and getattr(net, "drop_path", 0):
            net = net.clone(drop_path=0.0)

        def encode(params: Tree, rows: Tree) -> tuple[jax.Array, Tree]:
            return _encode(net, params, *rows, which, key)

        if self.slices > 1:
            encode = by_rows(partial(_encode_slices, self.slices, encode))
        x, new = encode(gathered(params["backbone"]), (stats["backbone"], batch))
        return jnp.moveaxis(x, 1, 0), stats | {"backbone": new}

    def head(self, name: str, params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        """Runs a head, in training, on views (V, B, F) with BatchNorm statistics of each.

        The products are over all views at once, so that gradients cross the devices once.
        """

        def one(view: jax.Array) -> tuple[jax.Array, Tree]:
            y, new = self.apply(name, params, stats, view, True)
            return y, new[name]

        y, new = jax.vmap(one)(x)
        return y, stats | {name: jax.tree.map(renewed_in_turn, stats[name], new)}

    def project(
        self, params: Tree, stats: Tree, batch: Batch, which: Sequence[int], key: Key = None
    ) -> tuple[jax.Array, Tree]:
        """Some views of a batch to projections (V, B, C), float32, in training; see `features`."""
        x, stats = self.features(params, stats, batch, which, key)
        return self.head("projector", params, stats, x)

    def encode_state(
        self, params: Tree, state: Tree, images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`encode` as `Method.encode`, of a method state that has the statistics."""
        return self.encode(params, state["stats"], images)

    def encode(self, params: Tree, stats: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images (B, S, S, C) to features (B, F) and projections (B, C), in evaluation mode."""
        features, _ = self.apply("backbone", params, stats, images, False)
        return features, self.apply("projector", params, stats, features, False)[0]


def _apply(
    net: nn.Module, params: Tree, stats: Tree, x: jax.Array, train: bool, key: Key = None
) -> tuple[jax.Array, Tree]:
    variables = {"params": params, "batch_stats": stats}
    rngs = None if key is None else {"dropout": key}
    y, new = net.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)
    return y, new.get("batch_stats", stats)


def _encode(
    net: nn.Module, params: Tree, stats: Tree, batch: Batch, which: Sequence[int], key: Key
) -> tuple[jax.Array, Tree]:
    """Features (B, V, F) of some views, and the statistics renewed.

    BatchNorm sees one view after the other: its statistics are never over several. Without any,
    all views of a size are one batch. They alternate in it: no row leaves its device.
    """
    images = [batch.view(view) for view in which]
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(which))]
    outputs = {}
    if stats:
        groups = jax.tree.leaves(stats)[0].shape[0]  # fewer than the batch's in a slice of it
        for i, x in enumerate(images):
            y, stats = _apply(net.clone(bn_groups=groups), params, stats, x, True, keys[i])
            outputs[i] = y
        return _in_order(outputs), stats
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(images):
        sizes.setdefault(x.shape, []).append(i)
    for places in sizes.values():
        x = jnp.stack([images[i] for i in places], 1)
        flat = x.reshape(-1, *x.shape[2:])
        y, _ = _apply(net, params, stats, flat, True, keys[places[0]])
        y = y.reshape(*x.shape[:2], -1)
        outputs |= {i: y[:, column] for column, i in enumerate(places)}
    return _in_order(outputs), stats


def _in_order(outputs: dict[int, jax.Array]) -> jax.Array:
    return jnp.stack([outputs[i] for i in range(len(outputs))], 1)


def _encode_slices(slices: int, encode: Callable, params: Tree, rows: Tree) -> Tree:
    """`encode` in slices of consecutive rows, and of whole BatchNorm groups.

    Every slice, its augmentation included, is computed again for its gradient: what is kept is
    the raw batch, and the memory is that of one slice (arXiv:2101.06983, without its two passes).
    """
    cut = jax.tree.map(lambda x: x.reshape(slices, -1, *x.shape[1:]), rows)
    done = jax.lax.map(jax.checkpoint(partial(encode, params), prevent_cse=False), cut)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), done)


def make_networks(config: ConfigDict) -> Networks:
    """Builds the networks that `config.model` and `config.method` describe."""
    groups, dtype = bn_groups(config), resolve_dtype(config.model.dtype)
    backbone = make_backbone(config.model, config.data.image_size, groups, dtype)
    projector, predictor = config.method.projector, config.method.predictor
    return Networks(
        backbone,
        make_head(projector, groups, dtype),
        make_head(predictor, groups, dtype) if predictor.layers else None,
        config.accumulate,
    )


def bn_groups(config: ConfigDict) -> int:
    """Groups of the batch with BatchNorm statistics of their own; InputError if they do not fit."""
    batch, size = config.data.batch_size, config.method.bn_group_size
    if size < 0 or (size and batch % size):
        raise InputError(
            f"method.bn_group_size={size} must divide data.batch_size={batch}, or be 0 for "
            f"statistics of the whole batch"
        )
    return batch // size if size else 1


def check_accumulate(config: ConfigDict, devices: int) -> None:
    """Refuses slices of the batch that would not give the gradient of the whole.

    Args:
      config: of the run.
      devices: over which the batch is split.

    Raises:
      InputError: BatchNorm in the backbone is over the whole batch, or a device's rows do not
        fall into `config.accumulate` equal slices of whole BatchNorm groups.
    """
    n, size = config.accumulate, config.method.bn_group_size
    rows, row_wise = config.data.batch_size // devices, make_networks(config).backbone.row_wise
    if config.model.vit.drop_path and n != 1:
        raise InputError(f"accumulate={n} is not exact with model.vit.drop_path: use 1")
    if not row_wise and size == 0 and n != 1:
        raise InputError(
            f"accumulate={n} is not exact with BatchNorm over the whole batch in "
            f"{config.model.name} (method.bn_group_size=0): use 1, or groups, or a backbone without"
        )
    unit = 1 if row_wise or n == 1 else size
    if n < 1 or rows % (n * unit):
        valid = [d for d in range(1, rows // unit + 1) if rows % (d * unit) == 0] or [1]
        groups = "" if unit == 1 else f" of whole groups of {size} (method.bn_group_size)"
        raise InputError(
            f"accumulate={n} must divide the {rows} images of a device into slices{groups}; "
            f"nearest: {min(valid, key=lambda d: abs(d - n))}"
        )


def refuse_predictor(method: ConfigDict) -> None:
    """Raises InputError where `config.method` has a predictor and its method none."""
    if method.predictor.layers:
        raise InputError(
            f"method.predictor.layers={method.predictor.layers} must be 0: method "
            f"{method.name!r} has no predictor"
        )


def shuffled_keys(
    nets: Networks,
    params: Tree,
    stats: Tree,
    batch: Batch,
    which: Sequence[int],
    key: jax.Array | None,
) -> tuple[jax.Array, Tree]:
    """Projections (V, B, C) of length 1, whole on all devices, of shuffled BatchNorm groups.

    The images that share statistics are then others than those of the queries, which else give
    the right key away (arXiv:1911.05722, section 3.3).

    Args:
      nets: the networks.
      params: by network.
      stats: by network.
      batch: whose views they are.
      which: V of `Method.views`.
      key: of the order; None: they stay as they are.
    """
    if key is None:
        k, stats = nets.project(params, stats, batch, which)
        return whole(l2_normalize(k)), stats
    order = whole(jax.random.permutation(key, batch["index"].shape[0]))
    # Shuffled before augmentation, so that what moves between devices is uint8, of these views
    # alone; a view depends on the image's own key, not on its place in the batch.
    k, stats = nets.project(params, stats, batch.take(order), which)
    return whole(whole(l2_normalize(k))[:, jnp.argsort(order)]), stats


def target_of(tree: Tree) -> Tree:
    """The part of a tree by network that the momentum encoder has too: all but the predictor."""
    return {name: tree[name] for name in ("backbone", "projector")}
