"""The training step: one pure function from (TrainState, batch) to (TrainState, metrics)."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from moco_jax.methods.method import Batch, Rows

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


class Task(Protocol):
    """What the loop trains, a `Method` or a protocol's: these of its attributes are read here."""

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict]]]
    layers: tuple[str, ...]
    guard: Callable[[jax.Array, Tree, Tree], tuple[jax.Array, Tree, Tree]]
    after_update: Callable[[TrainState, TrainState], TrainState]


def init_state(task: Task, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step, a function of `key` alone.

    Args:
      task: what is trained.
      tx: the optimizer.
      key: random.
    """
    params, method_state = task.init(key)
    zeros = jnp.zeros((3,), jnp.int32)
    return TrainState(zeros[0], zeros[1:], params, tx.init(params), method_state)


def at(tree: Tree, path: str) -> Tree:
    """The part of a tree of dicts under a '/'-joined path, e.g. 'backbone/conv1'."""
    return reduce(lambda part, name: part[name], path.split("/"), tree)


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    frozen: Tree,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the step; the caller jits it and donates the state.

    A step whose loss or gradient is not finite leaves the state as it was, momentum encoder,
    queue and BatchNorm statistics included, and only counts itself in `skipped`.

    Args:
      task: gives the loss.
      tx: the optimizer, learning rate included.
      learning_rate: the schedule inside `tx`, to be logged.
      frozen: tree of bool over the parameters; their gradient is not even computed.
      seed: of what is random in the step beyond the views.
    """
    trained = [path for path in task.layers if not all(jax.tree.leaves(at(frozen, path)))]
    ends = (("first", trained[0]), ("last", trained[-1])) if trained else ()

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.position)

        def loss_fn(params: Tree):
            params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)
            return task.loss(params, state.method_state, batch, key, state.step)

        (loss, (method_state, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        loss, grads, method_state = task.guard(loss, grads, method_state)
        grad_norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        done = TrainState(
            step=state.step + 1,
            skipped=state.skipped * jnp.array([1, 0]),
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            method_state=method_state,
        )
        done = task.after_update(state, done)
        held = state._replace(skipped=state.skipped + 1)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new_state = jax.tree.map(partial(_choose, finite), held, done)
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate(state.step),
            "grad_norm": grad_norm,
            **{f"grad_norm_{end}": optax.global_norm(at(grads, path)) for end, path in ends},
            "skipped": new_state.skipped[0],
            "skipped_in_a_row": new_state.skipped[1],
        } | metrics  # a method that adds up the losses of many heads shows one of them
        return new_state, metrics

    return train_step


def _choose(finite: jax.Array, before: jax.Array, after: jax.Array | Rows) -> jax.Array:
    """An array of the new state: as the step leaves it, or as it was."""
    if not isinstance(after, Rows):
        return jnp.where(finite, after, before)
    # What was there is written again: a choice between two whole arrays would copy one.
    values = jnp.where(finite, after.values, before[after.index])
    return before.at[after.index].set(values, mode="drop", unique_indices=True)
