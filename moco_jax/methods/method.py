"""What a self-supervised method is: a value that says what it needs, and pure functions.

B batch, C features of the projection, F features of the backbone, S image size, R rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from moco_jax.ops.course import Course

Tree = Any


class Facts(NamedTuple):
    """What a method is told beside the config.

    Attributes:
      images: N, that are trained on.
      classes: K; 0 without labels.
      image_shape: (S, S, channels), of a view of `data.image_size`.
      steps: of the whole run, for schedules.
      steps_per_epoch: need not be whole.
    """

    images: int
    classes: int
    image_shape: tuple[int, int, int]
    steps: int | Course
    steps_per_epoch: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch as a method sees it: a pytree, whose arrays all have B rows.

    Attributes:
      entries: `index`, `epoch`, `label`, int32 (B,), and one of `crops`, `image`, `features`;
        see `data.pipeline`.
      augment: (entries, which) -> (B, S, S, C), a view.
    """

    entries: dict[str, Any]
    augment: Callable[[dict[str, Any], int], jax.Array] = dataclasses.field(
        metadata={"static": True}
    )

    def __getitem__(self, name: str) -> jax.Array:
        return self.entries[name]

    def view(self, which: int) -> jax.Array:
        """One of `Method.views`, augmented and normalized: float32 (B, S, S, C)."""
        return self.augment(self.entries, which)

    def take(self, order: jax.Array) -> "Batch":
        """The batch with its rows in another order, int32 (B,)."""
        return jax.tree.map(lambda x: x[order], self)


class Rows(NamedTuple):
    """In place of an array of the method state: what a step writes to some of its rows.

    The step writes them in place, and writes what was there where it is not finite: neither needs
    a second copy of a large array.

    Attributes:
      index: int32 (R,), each row at most once; those past the end are left out.
      values: (R, ...).
    """

    index: jax.Array
    values: jax.Array


def unchanged(before: Any, after: Any) -> Any:
    """The `after_update` of most methods: the state as the optimizer left it."""
    del before
    return after


def whole_gradient(loss: jax.Array, grads: Tree, state: Tree) -> tuple[jax.Array, Tree, Tree]:
    """The `guard` of most methods: the step is used whole, or left out whole."""
    return loss, grads, state


class Method(NamedTuple):
    """A self-supervised method.

    Attributes:
      init: key -> (params, method_state): everything that training changes, but the optimizer.
      loss: (params, method_state, batch, key, step) -> (loss, (method_state, metrics)). The
        method asks the batch for its views. In the new state `Rows` may stand for an array.
        Metrics are float32 scalars.
      encode: (params, method_state, images (B, S, S, C)) -> (features (B, F), projection
        (B, C)) of the online network in evaluation mode.
      chance_loss: the loss of a network whose features say nothing.
      layers: path prefixes, in params, of the backbone's layers from the first to the last.
      views: recipes of `config.view`, each with a size of its own.
      layout: how the method state lies on the mesh: a tree of `mesh.Layout`, or a prefix of it.
      guard: (loss, gradient, new method_state) -> the same, before the step is left out where loss
        or gradient are not finite: what of them shall not count is taken away here.
      after_update: (TrainState before, TrainState after a step) -> TrainState: the last word on
        parameters and optimizer state, e.g. prototypes that are normalized, or held for an epoch.
      random_networks: whether `loss` gives its networks a random key, as stochastic depth needs.
      recipe: what the log says of the method's own options.
      caution: what is unusual in them for these images, said when a run begins; mostly nothing.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, jax.Array, jax.Array], tuple[jax.Array, tuple[Tree, dict]]]
    encode: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, jax.Array]]
    chance_loss: float
    layers: tuple[str, ...]
    views: tuple[ConfigDict, ...]
    layout: Tree
    guard: Callable[[jax.Array, Tree, Tree], tuple[jax.Array, Tree, Tree]] = whole_gradient
    after_update: Callable[[Any, Any], Any] = unchanged
    random_networks: bool = False
    recipe: str = ""
    caution: str = ""
