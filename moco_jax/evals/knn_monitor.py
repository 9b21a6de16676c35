"""kNN while training goes on."""

import logging
import os
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from moco_jax import files
from moco_jax.bucket import Place
from moco_jax.config import ConfigDict
from moco_jax.data.source import Splits
from moco_jax.data.subset import labelled_only
from moco_jax.errors import BadImage, InputError, NotFiniteError
from moco_jax.evals import confusion
from moco_jax.evals.evaluation import Context, Evaluation, Measure
from moco_jax.evals.extraction import Encode, make_pixels
from moco_jax.evals.knn_accuracy import Batches, Outcome, evaluate, one_class, save
from moco_jax.evals.knn_options import bank_of, leaves_one_out, pairs_of, resolved, watched

log = logging.getLogger(__name__)


class KnnMonitor:
    """Measures kNN in training: on the test images, or leave-one-out on the training images.

    Attributes:
      active: False where there are no labels or `knn.every_epochs` is 0; then every measurement
        is empty.
    """

    def __init__(self, knn: ConfigDict, data: Splits, batches: Batches, mesh: Mesh):
        """Takes the options, the data, `batches(source, limit=n)`, and the mesh."""
        pairs_of(knn)
        knn = resolved(knn, bank_of(knn, data)) if knn.every_epochs and data.train.labelled else knn
        self._knn, self._data, self._batches, self._mesh = knn, data, batches, mesh
        self._last: Outcome | None = None
        self.active = knn.every_epochs > 0 and data.train.labelled and not one_class(data.train)
        if data.train.labelled and (text := one_class(data.train)):
            log.warning("%s", text)
        if knn.every_epochs > 0 and not data.train.labelled:
            log.info("No labels: kNN is not measured")
        elif self.active and leaves_one_out(data):
            log.info("No labelled test images: kNN leaves one out of the training images")

    def measure(
        self, name: str, encode: Encode, final: bool = False, kept: bool = True
    ) -> dict[str, float]:
        """Top-1 of the watched vote under a name, for metrics.jsonl; empty when not active.

        A network that diverges may give features that are not finite: NaN, and a line in the log.

        Args:
          name: of the metric.
          encode: a batch on the device -> (B, F) float32.
          final: with the bank and queries of the end of a run; else with those of `watched`.
          kept: whether all votes and the confusion are wanted, to be saved.
        """
        self._last = None
        if not self.active:
            return {}
        options = self._knn if final else watched(self._knn)
        try:
            self._last = evaluate(
                encode, self._data, self._batches, options, self._mesh, watched_only=not kept
            )
        except NotFiniteError as error:
            log.error("kNN is not measured: %s", error)
            return {name: float("nan")}
        except BadImage:
            raise
        except InputError as error:  # of labels, which training does without
            log.error("kNN is not measured: %s", error)
            return {}
        return {name: self._last.scores[0].top1}

    def save(self, workdir: str | os.PathLike, encoder: str, features: str, seed: int) -> None:
        """Adds the last measurement, if there is one, with all its votes to `results.json`.

        Args:
          workdir: of the run.
          encoder: what was measured: 'untrained', 'raw pixels' or a step.
          features: 'backbone', 'projection' or 'pixels'.
          seed: of the run.
        """
        if self._last and jax.process_index() == 0:
            save(workdir, self._last, {"encoder": encoder, "features": features}, seed)

    def save_confusion(self, workdir: Place) -> None:
        """Keeps which classes the last measurement confused, if there is one."""
        if self._last and self._last.confusion is not None and jax.process_index() == 0:
            names = np.array(self._data.train.class_names, np.str_)
            arrays = {"counts": self._last.confusion, "class_names": names}
            files.write(workdir / confusion.FILE, files.as_npz(arrays, compressed=True))


def _make(context: Context) -> Measure | None:
    """KNN of the features; before the first step also of raw pixels.

    The first and the last measurement are kept with all votes.
    """
    config, workdir = context.config, context.workdir
    if config.protocol == "supervised" and not config.supervised.augment:
        return None  # the data are features
    data = Splits(*map(labelled_only, context.evaluated))
    monitor = KnnMonitor(config.knn, data, context.batches, context.mesh)
    encode = context.encode(config.knn.features)

    before = "before training" if config.init else "untrained"

    def measure(state: Any, position: int) -> dict[str, float]:
        raw = {}
        if position == 0:
            raw = monitor.measure("knn_top1_raw", make_pixels(context.evaluated.train, config.data))
            monitor.save(workdir, "raw pixels", "pixels", config.seed)
        final = position == context.steps
        kept = final or position == 0
        row = raw | monitor.measure("knn_top1", partial(encode, state), final, kept)
        if kept:
            name = f"step {position}" if position else before
            monitor.save(workdir, name, config.knn.features, config.seed)
        if final:
            monitor.save_confusion(workdir)
        return row

    return measure


KNN = Evaluation(_make, lambda config: config.knn.every_epochs)
