"""Optimizers as optax chains with masks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import ConfigDict
from moco_jax.optim.groups import layer_scales, parameter_groups


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
      InputError: a pattern that is no regular expression or matches nothing.
    """
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
