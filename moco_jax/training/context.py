"""What evaluations may know of an experiment and do with it.

B batch, N images, F features, L heads, K classes.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax import mesh as meshes
from moco_jax.bucket import Place
from moco_jax.data import transfer
from moco_jax.errors import NotFiniteError
from moco_jax.evals.evaluation import Context, EncodeState
from moco_jax.evals.extraction import extract
from moco_jax.training.experiment import (
    Experiment,
    eval_batches,
    eval_images,
    make_encode,
    train_batches,
)
from moco_jax.training.step import TrainState


def make_context(x: Experiment, workdir: Place) -> Context:
    """The context of an experiment whose files are in `workdir`.

    Args:
      x: the experiment.
      workdir: of its files.
    """
    encode = lru_cache(partial(make_encode, x))
    return Context(
        config=x.config,
        workdir=workdir,
        task=x.task,
        data=x.data,
        evaluated=x.evaluated,
        held_out=x.held_out,
        mesh=x.mesh,
        steps=x.steps,
        batches=partial(eval_batches, x),
        encode=encode,
        sample=_make_sample(x, encode),
        two_views=_make_two_views(x),
        predict=_make_predict(x),
    )


def _make_predict(x: Experiment) -> Callable[[TrainState, dict[str, Any]], jax.Array]:
    """The jitted function from state and batch of images or features to logits (L, B, K)."""

    def predict(state: TrainState, batch: dict[str, Any]) -> jax.Array:
        features = batch.get("features")
        if features is None:
            images = eval_images(x, batch)
            features, _ = x.task.encode(state.params, state.method_state, images)
        return x.task.classify(state.params, state.method_state, features)

    return jax.jit(meshes.inside(x.mesh, predict))


def _make_sample(
    x: Experiment, encode: Callable[[str], EncodeState]
) -> Callable[[TrainState, int], np.ndarray]:
    """The backbone's features (N, F) of some images, extracted once for all that measure them."""
    source = x.evaluated.test or x.evaluated.train

    last: dict[int, np.ndarray] = {}

    def sample(state: TrainState, position: int) -> np.ndarray:
        if position not in last:
            last.clear()
            batches = eval_batches(x, source, limit=x.config.evals.images)
            last[position], _ = extract(partial(encode("backbone"), state), batches)
        return last[position]

    return sample


def _make_two_views(
    x: Experiment,
) -> Callable[[TrainState, int], tuple[np.ndarray, np.ndarray]]:
    """The features (N, F) of the first two views of the first batches of training."""

    def encode(state: TrainState, batch: dict[str, Any]) -> list[jax.Array]:
        views = [x.augment(batch, which) for which in (0, 1)]
        sizes = {view.shape for view in views}
        # Of one size, they are one batch: the encoder is compiled once.
        groups = [jnp.concatenate(views)] if len(sizes) == 1 else views
        features = [x.task.encode(state.params, state.method_state, g)[0] for g in groups]
        return jnp.split(features[0], 2) if len(sizes) == 1 else features

    encode = jax.jit(meshes.inside(x.mesh, encode))

    def two_views(state: TrainState, count: int) -> tuple[np.ndarray, np.ndarray]:
        size = x.config.data.batch_size
        with train_batches(x, 0) as batches:
            parts = [
                transfer.fetch((encode(state, batch), batch["index"]))
                for batch, _ in zip(batches, range(max(1, count // size)))
            ]
        pairs, index = zip(*parts)
        first, second = (np.concatenate(column)[:count] for column in zip(*pairs))
        finite = np.isfinite(first).all(1) & np.isfinite(second).all(1)
        if not finite.all():
            raise NotFiniteError(np.concatenate(index)[:count][~finite])
        return first, second

    return two_views
