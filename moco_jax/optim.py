"""Optimizers: a learning-rate schedule and an optax chain with masks.

Every parameter belongs to one of three groups, by its path and number of dimensions:
'regular' (decay and trust ratio), 'excluded' (trained without either) or 'frozen'.
"""

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import OPTIMIZERS, SCHEDULES, ConfigDict, choose
from moco_jax.errors import InputError


def make_schedule(
    optim: ConfigDict, batch_size: int, total_steps: int, steps_per_epoch: float
) -> optax.Schedule:
    """Builds step -> learning rate, float32; the step may be traced.

    The peak is base_lr * batch_size / 256 (arXiv:1706.02677). It is reached linearly from 0
    over the warmup, and then follows half a cosine to 0 at `total_steps`, or drops.

    Args:
      optim: `config.optim`.
      batch_size: images over all devices.
      total_steps: of the run.
      steps_per_epoch: need not be whole; epochs in `optim` are counted in such parts.

    Raises:
      InputError: an unknown schedule or a value out of range.
    """
    choose("optim.schedule", optim.schedule, SCHEDULES)
    epochs = total_steps / steps_per_epoch
    _require(optim, "base_lr", 0 <= optim.base_lr < math.inf, "finite and not negative")
    _require(
        optim, "warmup_epochs", 0 <= optim.warmup_epochs < epochs, f"0 or more and below {epochs:g}"
    )
    _require(optim, "step_factor", 0 <= optim.step_factor < math.inf, "finite and not negative")
    peak, factor = optim.base_lr * batch_size / 256, optim.step_factor
    warmup = optim.warmup_epochs * steps_per_epoch
    drops = jnp.array([epoch * steps_per_epoch for epoch in optim.step_epochs], jnp.float32)

    def cosine(t: jax.Array) -> jax.Array:
        return 0.5 * (1 + jnp.cos(math.pi * (t - warmup) / (total_steps - warmup)))

    def steps(t: jax.Array) -> jax.Array:
        return jnp.prod(jnp.where(t >= drops, factor, 1.0))

    shape = cosine if optim.schedule == "cosine" else steps

    def schedule(step: jax.Array) -> jax.Array:
        t = jnp.minimum(jnp.asarray(step, jnp.float32), total_steps)
        # Below one step of warmup only t = 0 is in it, where the divisor has no effect.
        return peak * jnp.where(t < warmup, t / max(warmup, 1.0), shape(t))

    return schedule


def make_optimizer(
    optim: ConfigDict, params: Any, schedule: optax.Schedule, layers: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Builds the optimizer that `config.optim` names.

    Frozen parameters get no update and no decay, have no optimizer state and do not count in
    the norm that clipping compares. Sources: sgd is PyTorch's, whose momentum is the buffer
    mu * buffer + gradient, with decay added to the gradient; lars (arXiv:1708.03888) is MoCo
    v3's, with the learning rate outside the buffer; lamb is algorithm 2 of arXiv:1904.00962
    with debiased moments and no bounds on the weight norm (MoCo v3's paper calls it the AdamW
    counterpart of LARS and says no more, and its released code has none); adamw
    (arXiv:1711.05101) is PyTorch's.

    Args:
      optim: `config.optim`.
      params: the parameters, or their shapes.
      schedule: step -> learning rate.
      layers: `Method.layers`, for `optim.layer_decay`; the optimizer's state is the same without.

    Raises:
      InputError: an unknown optimizer, a value out of range, or a pattern that matches nothing.
    """
    _check(optim)
    groups = parameter_groups(optim, params)
    regular = jax.tree.map(lambda group: group == "regular", groups)
    chain = optax.chain(
        *([optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []),
        *_rule(optim, regular),
        optax.scale_by_learning_rate(schedule),
    )
    parts = jax.tree.map(lambda group: "frozen" if group == "frozen" else "trained", groups)
    rule = optax.partition({"trained": chain, "frozen": optax.set_to_zero()}, parts)
    return rule if optim.layer_decay == 1 else _scaled(rule, layer_scales(optim, params, layers))


def layer_scales(optim: ConfigDict, params: Any, layers: Sequence[str]) -> Any:
    """The tree of `params` with what `optim.layer_decay` multiplies each learning rate by.

    As in fine-tuning BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377): 1 for the heads and the
    backbone's last norm, and one power more for each layer further down. What a backbone has
    beside its layers and `norm` (embeddings, the norms of its stem) goes with the first layer.

    Args:
      optim: `config.optim`.
      params: the parameters, or their shapes.
      layers: path prefixes, in `params`, of the backbone's layers from the first to the last.
    """
    backbone = {layer.split("/")[0] for layer in layers}

    def scale(path: tuple, leaf: jax.Array) -> float:
        del leaf
        name = _name(path) + "/"
        network, part = name.split("/")[:2]
        if network not in backbone or part == "norm":
            return 1.0
        place = next((i for i, layer in enumerate(layers) if name.startswith(f"{layer}/")), 0)
        return optim.layer_decay ** (len(layers) - place)

    return jax.tree_util.tree_map_with_path(scale, params)


def make_heads_optimizer(
    optim: ConfigDict, params: Any, schedule: optax.Schedule, heads: Sequence[float]
) -> optax.GradientTransformation:
    """Builds the optimizer of many classifiers on one backbone, which is not trained.

    Each head gets what `make_optimizer` would give it alone, its own clipping and trust ratios
    included.

    Args:
      optim: `config.optim`.
      params: 'classifier', each leaf with a leading axis of heads; all else has no optimizer state.
      schedule: step -> learning rate.
      heads: learning rate of each head, as a multiple of the schedule's.
    """
    inner = make_optimizer(optim, one_head(params), schedule)
    multiples = jnp.array(heads, jnp.float32)

    def classifier(tree: Any) -> Any:
        return {"classifier": tree["classifier"]}

    def init(params: Any) -> Any:
        return jax.vmap(inner.init)(classifier(params))

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = jax.vmap(inner.update)(classifier(grads), state, classifier(params))
        updates = jax.vmap(optax.tree.scale)(multiples, updates)
        return optax.tree.zeros_like(grads) | updates, state

    return optax.GradientTransformation(init, update)


def one_head(params: Any) -> Any:
    """The shapes of one head of `params['classifier']`, under that name."""
    return {
        "classifier": jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params["classifier"]
        )
    }


def parameter_groups(optim: ConfigDict, params: Any) -> Any:
    """The tree of `params` with 'regular', 'excluded' or 'frozen' for each leaf.

    A parameter is frozen when one of the regular expressions in `optim.freeze` is found
    anywhere in its path (re.search), such as 'backbone/conv1/kernel'; '^' and '$' bind it. It is
    excluded by one of `optim.exclude`, or by `optim.exclude_1d`.

    Raises:
      InputError: a pattern that is no regular expression or matches nothing, or patterns that
        together match everything.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: _name(path), params)
    frozen = _matching(optim, "freeze", jax.tree.leaves(paths))
    excluded = _matching(optim, "exclude", jax.tree.leaves(paths))
    if len(frozen) == len(jax.tree.leaves(paths)):
        raise InputError(f"optim.freeze={tuple(optim.freeze)} leaves no parameter to train")

    def group(path: str, leaf: jax.Array) -> str:
        if path in frozen:
            return "frozen"
        by_size = optim.exclude_1d and leaf.ndim <= 1
        return "excluded" if by_size or path in excluded else "regular"

    return jax.tree.map(group, paths, params)


def describe_optimizer(optim: ConfigDict, params: Any, layers: Sequence[str] = ()) -> list[str]:
    """Lines for the log: each group of parameters, its size, and the names in short form.

    With `optim.layer_decay`, also what it makes of the learning rate.
    """
    trusts = {"lars": f"trust ratio times {optim.trust_coefficient:g}", "lamb": "trust ratio"}
    trust = trusts.get(optim.name)
    titles = {
        "regular": f"decay {optim.weight_decay:g}" + (f", {trust}" if trust else ""),
        "excluded": "no decay" + (", no trust ratio" if trust else ""),
        "frozen": "frozen",
    }
    groups = parameter_groups(optim, params)
    lines = [f"{title}: {_summary(params, groups, group)}" for group, title in titles.items()]
    if optim.layer_decay != 1:
        lowest = optim.layer_decay ** len(layers)
        lines.append(
            f"learning rate times {lowest:.3g} at {layers[0]} to {optim.layer_decay:g} at "
            f"{layers[-1]}, 1 at {_summary(params, layer_scales(optim, params, layers), 1.0)}"
        )
    return [f"{optim.name}: {line}" for line in lines]


def _rule(optim: ConfigDict, regular: Any) -> tuple[optax.GradientTransformation, ...]:
    """Gradients to steps, before the learning rate; `regular` is the mask of decay and trust."""
    decay = optax.add_decayed_weights(optim.weight_decay, regular)
    momentum = optax.trace(optim.momentum)
    adam = _promoting(optax.scale_by_adam(optim.b1, optim.b2, optim.eps))

    def trust(coefficient: float) -> optax.GradientTransformation:
        return optax.masked(optax.scale_by_trust_ratio(trust_coefficient=coefficient), regular)

    return {
        "sgd": (decay, momentum),
        "lars": (decay, trust(optim.trust_coefficient), momentum),
        "lamb": (adam, decay, trust(1.0)),
        "adamw": (adam, decay),
    }[optim.name]


def _promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets optax mix dtypes: its Adam raises a float to the power of an integer count."""

    def update(*args: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(*args)

    return optax.GradientTransformation(inner.init, update)


def _scaled(inner: optax.GradientTransformation, scales: Any) -> optax.GradientTransformation:
    """Multiplies each update by its leaf of `scales`; the state stays that of `inner`."""

    def update(*args: Any) -> tuple[Any, Any]:
        updates, state = inner.update(*args)
        return jax.tree.map(lambda u, scale: scale * u, updates, scales), state

    return optax.GradientTransformation(inner.init, update)


def _check(optim: ConfigDict) -> None:
    choose("optim.name", optim.name, OPTIMIZERS)
    for name in ("weight_decay", "clip_norm"):
        _require(optim, name, 0 <= optim[name] < math.inf, "finite and not negative")
    for name in ("momentum", "b1", "b2"):
        _require(optim, name, 0 <= optim[name] < 1, "0 or more and below 1")
    _require(optim, "layer_decay", 0 < optim.layer_decay <= 1, "above 0 and at most 1")
    for name in ("eps", "trust_coefficient"):
        _require(optim, name, 0 < optim[name] < math.inf, "finite and positive")


def _require(optim: ConfigDict, name: str, ok: bool, expected: str) -> None:
    if not ok:
        raise InputError(f"optim.{name}={optim[name]} must be {expected}")


def _matching(optim: ConfigDict, name: str, paths: list[str]) -> set[str]:
    """The paths in which a pattern of the option `name` is found."""
    matching = set()
    for pattern in optim[name]:
        try:
            matched = [path for path in paths if re.search(pattern, path)]
        except re.error as error:
            raise InputError(f"optim.{name}: {pattern!r} is not valid: {error}") from None
        if not matched:
            known = {
                start for path in paths for start in accumulate(path.split("/"), "{}/{}".format)
            }
            near = ", ".join(get_close_matches(pattern, sorted(known), 3, 0.0))
            raise InputError(f"optim.{name}: {pattern!r} matches no parameter; nearest: {near}")
        matching.update(matched)
    return matching


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _summary(params: Any, labels: Any, label: Any, shown: int = 8) -> str:
    """Counts of the leaves with a label, and their paths with the numbers replaced by '*'."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(labels), strict=True)
    leaves = [leaf for leaf, other in pairs if other == label]
    if not leaves:
        return "none"
    size = sum(leaf.size for _, leaf in leaves)
    names = list(dict.fromkeys(re.sub(r"\d+", "*", _name(path)) for path, _ in leaves))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    count = "1 leaf" if len(leaves) == 1 else f"{len(leaves)} leaves"
    return f"{count}, {size:,} parameters: {', '.join(names[:shown])}{more}"
