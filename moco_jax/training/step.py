"""The training step: one pure function from (TrainState, batch) to (TrainState, metrics)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from moco_jax.methods.base import Method

Tree = Any


class TrainState(NamedTuple):
    """All that changes in training; checkpointed whole and donated to the step.

    Attributes:
      step: int32, updates made; the schedules of learning rate and EMA run on it.
      skipped: int32 (2,), steps left out for a non-finite loss or gradient: in all, and in a
        row up to now. `step + skipped[0]` is the position in the data.
      params: by network; float32.
      opt_state: of the optax chain.
      method_state: BatchNorm statistics, momentum encoder, queue: what the method carries.
    """

    step: jax.Array
    skipped: jax.Array
    params: Tree
    opt_state: Tree
    method_state: Tree

    @property
    def position(self) -> jax.Array:
        """Batches consumed so far; int32."""
        return self.step + self.skipped[0]


def init_state(method: Method, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step, a function of `key` alone."""
    params, method_state = method.init(key)
    zeros = jnp.zeros((3,), jnp.int32)
    return TrainState(zeros[0], zeros[1:], params, tx.init(params), method_state)


def at(tree: Tree, path: str) -> Tree:
    """The part of a tree of dicts under a '/'-joined path, e.g. 'backbone/conv1'."""
    return functools.reduce(lambda part, name: part[name], path.split("/"), tree)


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    frozen: Tree,
    seed: int,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the step; the caller jits it and donates the state.

    A step whose loss or gradient is not finite leaves the state as it was, momentum encoder,
    queue and BatchNorm statistics included, and only counts itself in `skipped`.

    Args:
      method: gives the loss.
      tx: the optimizer, learning rate included.
      learning_rate: the schedule inside `tx`, to be logged.
      frozen: tree of bool over the parameters; their gradient is not even computed.
      seed: of what is random in the step beyond the views.
    """
    trained = [path for path in method.layers if not all(jax.tree.leaves(at(frozen, path)))]

    def train_step(state: TrainState, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(seed), state.position)

        def loss_fn(params: Tree):
            params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)
            return method.loss(params, state.method_state, batch, key, state.step)

        (loss, (method_state, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        grad_norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        done = TrainState(
            step=state.step + 1,
            skipped=state.skipped * jnp.array([1, 0]),
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            method_state=method_state,
        )
        held = state._replace(skipped=state.skipped + 1)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), done, held)
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate(state.step),
            "grad_norm": grad_norm,
            "grad_norm_first": optax.global_norm(at(grads, trained[0])),
            "grad_norm_last": optax.global_norm(at(grads, trained[-1])),
            "skipped": new_state.skipped[0],
            "skipped_in_a_row": new_state.skipped[1],
        } | metrics  # a method that adds up the losses of many heads shows one of them
        return new_state, metrics

    return train_step
