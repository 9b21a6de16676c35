"""What an evaluation is: a value that makes a measurement of a run, and its interval.

B batch, N images, F features, L heads, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax.bucket import Place
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import Source, Splits

Entries = dict[str, Any]
# (state, batch on the device) -> (B, F) float32
EncodeState = Callable[[Any, Entries], jax.Array]
# (state, position) -> what a row of metrics gets; position 0 is before the first step.
Measure = Callable[[Any, int], dict[str, float]]


class Context(NamedTuple):
    """What an evaluation may know of a run, and do with it. All processes do the same.

    Attributes:
      config: of the run.
      workdir: of the run.
      task: the method or protocol.
      data: the images of the run.
      evaluated: those that are evaluated on: of `evals.source`, or the run's own.
      held_out: training images that are not trained on, to choose among heads; or None.
      mesh: of the run's devices.
      steps: of the run; the measurement at this position is the last.
      batches: (source, limit=0) -> evaluation batches on the devices.
      encode: 'backbone' or 'projection' -> the jitted encoder in evaluation mode.
      sample: (state, position) -> the backbone's features of `evals.images` test images, or of
        training images where there is no test split: (N, F) float32; extracted once a position.
      two_views: (state, count) -> features of the first two views of training images, each (N, F)
        float32, row by row of the same image; N is about `count`.
      predict: of a protocol: (state, batch of images or features) -> logits (L, B, K).
    """

    config: ConfigDict
    workdir: Place
    task: Any
    data: Splits
    evaluated: Splits
    held_out: Source | None
    mesh: jax.sharding.Mesh
    steps: int
    batches: Callable[..., Prefetcher]
    encode: Callable[[str], EncodeState]
    sample: Callable[[Any, int], np.ndarray]
    two_views: Callable[[Any, int], tuple[np.ndarray, np.ndarray]]
    predict: Callable[[Any, Entries], jax.Array]


class Evaluation(NamedTuple):
    """An evaluation.

    Attributes:
      make: context -> the measurement; None where it has no meaning for the run.
      every_epochs: config -> epochs between two measurements; 0: at the start and the end only.
    """

    make: Callable[[Context], Measure | None]
    every_epochs: Callable[[ConfigDict], float]


class Watch(NamedTuple):
    """A measurement of a run.

    Attributes:
      every: steps between two; 0: at the start and the end only.
      measure: see `Measure`.
    """

    every: float
    measure: Measure

    def is_due(self, position: int) -> bool:
        """Whether the step to `position` completed another interval."""
        return bool(self.every) and position // self.every > (position - 1) // self.every


def is_pretraining(config: ConfigDict) -> bool:
    """Whether the run trains an encoder without labels."""
    return config.protocol == "pretraining"
