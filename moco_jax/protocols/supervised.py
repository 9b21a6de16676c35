"""Training with labels: a linear probe of a frozen backbone, or fine-tuning of the whole.

B batch, F features of the backbone, K classes, R learning rates, V variants of the features (as
they are; after BatchNorm too), L = V * R heads, the rates of the first variant before the second's.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.mesh import GROUPS, WHOLE, gathered
from moco_jax.methods.method import Batch, Facts, Tree, unchanged, whole_gradient
from moco_jax.methods.networks import bn_groups
from moco_jax.models import make_backbone, resolve_dtype
from moco_jax.models.norm import BatchNorm
from moco_jax.ops.mix import mix_images, mix_targets, sample_mix
from moco_jax.protocols import heads
from moco_jax.protocols.heads import OWN


class Supervised(NamedTuple):
    """What is trained with labels, in the same loop as a method; see `methods.method.Method`.

    Attributes:
      init: key -> (params, method_state).
      loss: (params, method_state, batch, key, step) -> (loss, (method_state, metrics)).
      encode: (params, method_state, images (B, S, S, C)) -> (features (B, F), logits (B, K) of the
        protocol's own head) in evaluation mode.
      classify: (params, method_state, features (B, F)) -> logits (L, B, K) of each head in
        evaluation mode.
      heads: of a linear probe: learning rate of each head, as a multiple of the schedule's. All of
        `params['classifier']` has a leading axis of heads, and nothing else is trained.
      chance_loss: the loss of a network whose features say nothing.
      layers: path prefixes, in params, of the layers that are trained, from the first to the last.
      views: the recipe of the one view; none where the data are features.
      layout: how the method state lies on the mesh.
      guard: see `heads.guard`.
      after_update: see `heads.hold`.
      recipe: what the log says of the protocol's options.
      caution: as of a `Method`; it has none.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict]]]
    encode: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, jax.Array]]
    classify: Callable[[Tree, Tree, jax.Array], jax.Array]
    chance_loss: float
    layers: tuple[str, ...]
    heads: tuple[float, ...]
    views: tuple[ConfigDict, ...]
    layout: Tree
    guard: Callable[[jax.Array, Tree, Tree], tuple[jax.Array, Tree, Tree]] = whole_gradient
    after_update: Callable[[Any, Any], Any] = unchanged
    recipe: str = ""
    caution: str = ""


def make(config: ConfigDict, facts: Facts) -> Supervised:
    """A linear classifier on a backbone.

    In a probe the backbone is in evaluation mode and no gradient reaches it; all heads train at
    once on the same features, each with a learning rate of its own, from the same first weights.
    `config.supervised`, `model`, `method.bn_group_size` and `data.view1` are read here.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: fewer than two classes, or options that do not fit each other.
    """
    s, classes, image_shape = config.supervised, facts.classes, facts.image_shape
    _check(s, classes)
    rates = heads.head_rates(config)
    variants = 2 if s.batch_norm else 1
    count = 0 if s.train_backbone else variants * len(rates)
    backbone = make_backbone(
        config.model, image_shape[0], bn_groups(config), resolve_dtype(config.model.dtype)
    )
    if config.accumulate != 1:
        raise InputError(f"accumulate={config.accumulate}: expected 1 with protocol="
                         f"'supervised'; model.remat saves memory too")  # fmt: skip
    if s.train_backbone and not backbone.layers:
        raise InputError(f"model.name={config.model.name!r} has nothing that fine-tuning trains")
    norm = BatchNorm(use_scale=False, use_bias=False)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        backbone_key, head_key = jax.random.split(key)
        features, variables = backbone.init_with_output(
            backbone_key, jnp.zeros((1, *image_shape)), train=False
        )
        kernel = 0.01 * jax.random.normal(head_key, (features.shape[-1], classes))
        axis = (count,) if count else ()
        classifier = {
            "kernel": jnp.broadcast_to(kernel, (*axis, *kernel.shape)),
            "bias": jnp.zeros((*axis, classes)),
        }
        stats = {"backbone": variables.get("batch_stats", {})}
        if s.batch_norm:
            stats["classifier"] = norm.init(head_key, features, train=False)["batch_stats"]
        params = {"backbone": variables.get("params", {}), "classifier": classifier}
        return params, {"stats": stats} | ({"alive": jnp.ones(count, bool)} if count else {})

    def extract(params: Tree, stats: Tree, images: jax.Array, key: jax.Array | None = None):
        """Features (B, F), and the statistics with the backbone's renewed; in training by a key."""
        variables = {"params": gathered(params["backbone"]), "batch_stats": stats["backbone"]}
        if key is None:
            return backbone.apply(variables, images, train=False), stats
        x, new = backbone.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return x, stats | {"backbone": new.get("batch_stats", stats["backbone"])}

    def logits_of(params: Tree, stats: Tree, features: jax.Array, train: bool):
        """Logits (L, B, K), and the statistics with the classifier's renewed."""
        x = features[None]
        if s.batch_norm:
            variables = {"batch_stats": stats["classifier"]}
            normed, new = norm.apply(variables, features, train, mutable=["batch_stats"])
            x, stats = jnp.stack([features, normed]), stats | {"classifier": new["batch_stats"]}
        classifier = gathered(params["classifier"])
        kernel, bias = classifier["kernel"], classifier["bias"]
        kernel = kernel.reshape(variants, -1, *kernel.shape[-2:])
        logits = jnp.einsum("vbf,vrfk->vrbk", x, kernel, precision="highest")
        logits = logits.reshape(-1, len(features), classes)
        return logits + bias.reshape(-1, 1, classes), stats

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del step
        mix_key, drop_key = jax.random.split(key)
        x, stats = batch.view(0) if s.augment else batch["features"], state["stats"]
        targets = jax.nn.one_hot(batch["label"], classes, dtype=jnp.float32)
        targets = optax.smooth_labels(targets, s.label_smoothing)
        if s.mixup or s.cutmix:
            mix = sample_mix(mix_key, *x.shape[1:3], s.mixup, s.cutmix, s.mix_p, s.cutmix_p)
            x, targets = mix_images(x, mix), mix_targets(targets, mix)
        if s.train_backbone:
            x, stats = extract(params, stats, x, drop_key)
        elif s.augment:
            x, stats = extract(params, stats, x)
        logits, stats = logits_of(params, stats, x, True)
        losses = optax.losses.softmax_cross_entropy(logits, targets[None]).mean(-1)
        right = jnp.argmax(logits[OWN], -1) == jnp.argmax(targets, -1)
        metrics = {"loss": losses[OWN], "train_top1": jnp.mean(right, dtype=jnp.float32)}
        state = state | {"stats": jax.lax.stop_gradient(stats)}
        if not count:
            return jnp.sum(losses), (state, metrics)
        alive = state["alive"] & jnp.isfinite(losses)
        metrics["frozen_heads"] = count - jnp.sum(alive, dtype=jnp.float32)
        # A head that has left the numbers is no part of the sum.
        return jnp.sum(jnp.where(alive, losses, 0.0)), (state | {"alive": alive}, metrics)

    def classify(params: Tree, state: Tree, features: jax.Array) -> jax.Array:
        return logits_of(params, state["stats"], features, False)[0]

    def encode(params: Tree, state: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features, _ = extract(params, state["stats"], images)
        return features, classify(params, state, features)[OWN]

    layers = tuple(f"backbone/{name}" for name in backbone.layers)
    return Supervised(
        init=init,
        loss=loss,
        encode=encode,
        classify=classify,
        heads=heads.multiples(rates) * variants if count else (),
        chance_loss=math.log(classes),
        layers=layers if s.train_backbone else ("classifier",),
        views=(config.data.view1,) if s.augment else (),
        layout={"stats": GROUPS, "alive": WHOLE} if count else GROUPS,
        guard=heads.guard if count else whole_gradient,
        after_update=heads.hold if count else unchanged,
        recipe=_recipe(config, rates, classes),
    )


def _recipe(config: ConfigDict, rates: tuple[float, ...], classes: int) -> str:
    s = config.supervised
    if s.train_backbone:
        return (
            f"fine-tuning, {classes} classes; label smoothing {s.label_smoothing:g}, mixup "
            f"{s.mixup:g}, cutmix {s.cutmix:g}"
        )
    others = f", and at once {', '.join(f'{r:g}' for r in rates[1:])}" if rates[1:] else ""
    norm = "; each also after BatchNorm" if s.batch_norm else ""
    made = "" if s.augment else ", features made once"
    return f"linear probe, {classes} classes{made}; base rate {rates[OWN]:g}{others}{norm}"


def _check(s: ConfigDict, classes: int) -> None:
    if classes < 2:
        raise InputError(f"protocol='supervised' needs at least 2 classes, not {classes}")
    fixed = {}  # options that have no meaning, and the value that says so
    if s.train_backbone:
        fixed = {"lrs": (), "batch_norm": False, "augment": True}
    elif not s.augment:
        fixed = {"mixup": 0.0, "cutmix": 0.0}
    for name, value in fixed.items():
        if s[name] != value:
            raise InputError(
                f"supervised.{name}={s[name]!r}: expected {value!r} with supervised."
                f"train_backbone={s.train_backbone} and supervised.augment={s.augment}"
            )
