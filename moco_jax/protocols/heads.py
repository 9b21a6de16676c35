"""The heads of a linear probe: classifiers that train at once, each as if it were alone.

R learning rates, V variants of the features, L = V * R heads, the rates of the first variant before
the second's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import ConfigDict

Tree = Any

# Head 0 is the protocol's own: its loss is the one that is shown.
OWN = 0


def head_rates(config: ConfigDict) -> tuple[float, ...]:
    """Base learning rates of the heads of one variant, the protocol's own first, each once."""
    return tuple(dict.fromkeys((config.optim.base_lr, *config.supervised.lrs)))


def multiples(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Each rate as a multiple of the protocol's own."""
    return (1.0, *(rate / rates[OWN] for rate in rates[1:]))


def describe_head(config: ConfigDict, head: int) -> dict[str, float | bool]:
    """What is particular to a head: its base learning rate, and whether BatchNorm precedes it.

    Args:
      config: of the probe.
      head: its number.
    """
    rates = head_rates(config)
    return {"base_lr": rates[head % len(rates)], "batch_norm": head >= len(rates)}


def name_head(config: ConfigDict, head: int) -> str:
    """A head in words, for the log.

    Args:
      config: of the probe.
      head: its number.
    """
    about = describe_head(config, head)
    norm = ", after BatchNorm" if about["batch_norm"] else ""
    return f"head {head} (base rate {about['base_lr']:g}{norm})"


def guard(loss: jax.Array, grads: Tree, state: Tree) -> tuple[jax.Array, Tree, Tree]:
    """Lets a head that has left the numbers change nothing, its own gradient included.

    Where no head that still trains is finite, the loss is NaN: the step is left out like any other,
    and no head is given up for it.

    Args:
      loss: the sum of the heads' losses that count.
      grads: those of `classifier` with a leading axis of heads.
      state: of the method; `alive`, bool (L,), holds the heads that trained so far and whose loss
        was finite now.

    Returns:
      The same; without a gradient of other heads, which are no longer alive.
    """
    classifier = grads["classifier"]
    norms = jax.vmap(optax.global_norm)(classifier)
    alive = state["alive"] & jnp.isfinite(norms)
    grads = grads | {
        "classifier": only(alive, classifier, jax.tree.map(jnp.zeros_like, classifier))
    }
    return jnp.where(alive.any(), loss, jnp.nan), grads, state | {"alive": alive}


def hold(before: Any, after: Any) -> Any:
    """The TrainState after a step, in which heads that are not alive are as they were.

    Args:
      before: TrainState before the step.
      after: as the step leaves it.
    """
    alive = after.method_state["alive"]
    classifier = only(alive, after.params["classifier"], before.params["classifier"])
    return after._replace(
        params=after.params | {"classifier": classifier},
        opt_state=only(alive, after.opt_state, before.opt_state),
    )


def only(alive: jax.Array, new: Tree, old: Tree) -> Tree:
    """Trees whose arrays have a leading axis of heads: `new` of those alive, `old` of others."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
