"""Mean IoU of a run's segmenter on the whole test images, in their own size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from moco_jax import mesh as meshes
from moco_jax import results
from moco_jax.data import transfer
from moco_jax.detection import mean_iou
from moco_jax.detection.batches import sent
from moco_jax.detection.pixel_batches import eval_pixels
from moco_jax.evals.evaluation import Context, Evaluation, Measure
from moco_jax.training.experiment import Experiment
from moco_jax.training.step import TrainState

EVALUATION = "segmentation"  # in results.json


def evaluation(x: Experiment) -> Evaluation:
    """The evaluation of a run; nothing is measured before the first step.

    Args:
      x: the experiment.
    """
    return Evaluation(partial(_make, x), lambda c: c.segmentation.every_epochs)


def _make(x: Experiment, context: Context) -> Measure:
    count = make_count(x)

    def measure(state: TrainState, position: int) -> dict[str, float]:
        if position == 0:
            return {}
        found = mean_iou.scores(count(state), x.data.test.class_names)
        row = {"mIoU": found.mean_iou, "pixel_accuracy": found.accuracy}
        row = {name: value for name, value in row.items() if np.isfinite(value)}
        if position == x.steps and jax.process_index() == 0:
            _add_result(x, context, row, found)
        return row

    return measure


def make_count(x: Experiment) -> Callable[[TrainState], np.ndarray]:
    """The function from a state to the confusion of the whole test part, int64 (K, K)."""
    canvas = tuple(x.config.segmentation.canvas)

    def of_batch(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        logits = x.task.logits(state.params, state.method_state, x.augment(batch, 0))
        return mean_iou.confusion(logits, batch["labels"])

    of_batch = jax.jit(meshes.inside(x.mesh, of_batch), out_shardings=meshes.replicated(x.mesh))

    def count(state: TrainState) -> np.ndarray:
        classes = len(x.data.test.class_names)
        total = np.zeros((classes, classes), np.int64)
        with eval_pixels(x.data.test, canvas, x.config.data, **sent(x.mesh)) as stream:
            for batch in stream:
                given = {name: batch[name] for name in ("image", "size", "labels")}
                total += transfer.fetch(of_batch(state, given))
        return total

    return count


def _add_result(
    x: Experiment, context: Context, row: dict[str, float], found: mean_iou.Scores
) -> None:
    c = x.config
    settings: dict[str, Any] = {
        "init": c.init or "random", "batch_size": c.data.batch_size, "base_lr": c.optim.base_lr,
        "steps": x.steps, "crop": list(c.segmentation.crop),
    }  # fmt: skip
    own = {f"iou {name}": value for name, value in found.iou.items() if np.isfinite(value)}
    results.add(
        context.workdir, EVALUATION, protocol=x.task.recipe, settings=settings, seed=c.seed,
        split=f"test images of {c.evals.source or c.data.source}", examples=len(x.data.test),
        metrics=row | own,
    )  # fmt: skip
