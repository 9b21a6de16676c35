"""Mean IoU of a run's segmenter on the whole test images, in their own size."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from moco_jax import mesh as meshes
from moco_jax.data import transfer
from moco_jax.detection import mean_iou
from moco_jax.detection.batches import sent
from moco_jax.detection.dense_task import variables_of
from moco_jax.detection.measured import add_result
from moco_jax.detection.pixel_batches import eval_pixels
from moco_jax.detection.segmenter import upsampled
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
            own = {f"iou {name}": v for name, v in found.iou.items() if np.isfinite(v)}
            settings = {"crop": list(x.config.segmentation.crop)}
            add_result(x, context, EVALUATION, settings, row | own)
        return row

    return measure


def make_count(x: Experiment) -> Callable[[TrainState], np.ndarray]:
    """The function from a state to the confusion of the whole test part, int64 (K, K)."""
    canvas = tuple(x.config.segmentation.canvas)

    def of_batch(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        variables = variables_of(state.params, state.method_state["stats"])
        small = x.task.net.apply(variables, x.augment(batch, 0), train=False)
        return mean_iou.confusion(upsampled(small), batch["labels"])

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
