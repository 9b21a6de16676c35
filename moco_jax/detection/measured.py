"""Average precision of a run's detector on the test images, with precise BatchNorm statistics."""

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from moco_jax import mesh as meshes
from moco_jax import results
from moco_jax.detection import batches, coco_ap, inference, shown, voc_ap
from moco_jax.detection.detections import Detections
from moco_jax.detection.framing import framing_of_test
from moco_jax.evals.evaluation import Context, Evaluation, Measure
from moco_jax.methods.method import Batch
from moco_jax.models.norm import MOMENTUM
from moco_jax.training.experiment import Experiment
from moco_jax.training.step import TrainState

log = logging.getLogger(__name__)

EVALUATION = "detection"  # in results.json
NOTHING = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


def evaluation(x: Experiment, trained_on: Callable[[int], Any]) -> Evaluation:
    """The evaluation of a run; before the first step only whether it can be made.

    Args:
      x: the experiment.
      trained_on: position -> training batches, for the statistics.
    """
    return Evaluation(partial(_make, x, trained_on), lambda c: c.detection.every_epochs)


def _make(x: Experiment, trained_on: Callable[[int], Any], context: Context) -> Measure:
    precise, detect = make_precise(x, trained_on), make_detect(x)

    def measure(state: TrainState, position: int) -> dict[str, float]:
        if position == 0:  # what is wrong with the evaluation shows before the training
            precisions(x, [NOTHING] * len(x.data.test))
            return {}
        found = detect(state, precise(state, position))
        row = precisions(x, found)
        if position == x.steps and jax.process_index() == 0:
            names = ("test_side", "eleven_points", "precise_batches")
            settings = {name: x.config.detection[name] for name in names}
            add_result(x, context, EVALUATION, settings, row)
            shown.save(context.workdir, x.data.test, found, x.config.data)
        return row

    return measure


def make_precise(
    x: Experiment, trained_on: Callable[[int], Any]
) -> Callable[[TrainState, int], Any]:
    """The function from state and position to the statistics of a test, as of `batch_stats`.

    Each is the mean of what `detection.precise_batches` training batches have, whose number the
    position decides; with none of them, the running one (arXiv:2105.07576, section 3).

    Args:
      x: the experiment.
      trained_on: position -> training batches.
    """
    count, seed = x.config.detection.precise_batches, x.config.seed

    def renewed(state: TrainState, entries: dict[str, jax.Array]) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), state.position)
        batch = Batch(entries, x.augment)
        _, (new, _) = x.task.loss(state.params, state.method_state, batch, key, state.step)
        return new["stats"]

    renewed = jax.jit(meshes.inside(x.mesh, renewed))

    def precise(state: TrainState, position: int) -> Any:
        old = state.method_state["stats"]
        if not count:
            return old
        with trained_on(position) as stream:
            total = None
            for batch in itertools.islice(stream, count):
                new = renewed(state, batch)
                total = new if total is None else jax.tree.map(jax.numpy.add, total, new)
        # A running statistic keeps MOMENTUM of itself, and the rest is the batch's.
        one = lambda o, t: (t / count - MOMENTUM * o) / (1 - MOMENTUM)  # noqa: E731
        return jax.tree.map(one, old, total)

    return precise


def make_detect(x: Experiment) -> Callable[[TrainState, Any], list[Detections]]:
    """The function from state and statistics to the detections on each test image, in order."""
    d, data, test = x.config.detection, x.config.data, x.data.test
    most = max((len(image) for image in test.images), default=0)
    proposals = tuple(d.test_proposals)
    framing = framing_of_test(d, max(most, 1))

    run = inference.make_detect(x.task.net, x.mesh, x.augment, proposals)

    def detect(state: TrainState, stats: Any) -> list[Detections]:
        found = [NOTHING] * len(test)
        with batches.eval_batches(test, framing, data, **batches.sent(x.mesh)) as stream:
            for index, one in run(state.params, stats, stream):
                found[index] = one
        return found

    return detect


def precisions(x: Experiment, found: Sequence[Detections]) -> dict[str, float]:
    """Average precisions in [0, 1] by name; what has nothing to be found is left out.

    COCO's of boxes, masks and keypoints where the test images are in its form, else VOC's.

    Args:
      x: the experiment.
      found: on each test image.
    """
    row = coco(x, found) if x.data.test.content else voc(x, found)
    return {name: value for name, value in row.items() if value >= 0}


def coco(x: Experiment, found: Sequence[Detections]) -> dict[str, float]:
    """COCO's numbers of what the detector learns, those of masks as `masks_AP`; see there.

    Args:
      x: the experiment.
      found: on each test image.
    """
    d, row = x.config.detection, {}
    for kind in ("boxes", *(k for k in ("masks", "keypoints") if d[k])):
        values = coco_ap.evaluate(x.data.test, found, kind, tuple(d.spreads))
        prefix = "" if kind == "boxes" else f"{kind}_"
        row |= {f"{prefix}{name}": value for name, value in values.items()}
    return row


def voc(x: Experiment, found: Sequence[Detections]) -> dict[str, float]:
    """VOC's numbers of boxes.

    Args:
      x: the experiment.
      found: on each test image.
    """
    result = voc_ap.evaluate(x.data.test, found, x.config.detection.eleven_points)
    return {"AP": result.ap, "AP50": result.ap50, "AP75": result.ap75}


def add_result(
    x: Experiment,
    context: Context,
    name: str,
    own: dict[str, Any],
    row: dict[str, float],
) -> None:
    """Keeps what was measured at a run's end in its results.json.

    Args:
      x: the experiment.
      context: of the run.
      name: of the evaluation.
      own: settings of this protocol beside what all have.
      row: the metrics.
    """
    c = x.config
    settings = {
        "init": c.init or "random", "batch_size": c.data.batch_size, "base_lr": c.optim.base_lr,
        "steps": x.steps,
    }  # fmt: skip
    results.add(
        context.workdir, name, protocol=x.task.recipe, settings=settings | own, seed=c.seed,
        split=f"test images of {c.evals.source or c.data.source}", examples=len(x.data.test),
        metrics=row,
    )  # fmt: skip
