"""The training step, compiled: how long it took, what it needs, and that it fits."""

import logging
import time
from typing import Any

import jax

from moco_jax.report.origin import Compiled
from moco_jax.training import device_memory
from moco_jax.training.experiment import Experiment, make_step

log = logging.getLogger(__name__)


def compiled(x: Experiment, state: Any, batch: dict[str, Any]) -> jax.stages.Compiled:
    """The training step for its devices, which need not be there.

    Args:
      x: the experiment.
      state: a TrainState, or its shapes.
      batch: the entries of a batch, or their shapes.

    Raises:
      DoesNotFitError: the compiler says that the step needs more memory than a device has.
    """
    lowered = make_step(x).lower(state, batch)
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise device_memory.refused(x, error) from error


def compile_step(
    x: Experiment, state: Any, batch: dict[str, Any]
) -> tuple[jax.stages.Compiled, Compiled]:
    """The compiled step, how long it took and what it needs; says so too.

    Args:
      x: the experiment.
      state: a TrainState.
      batch: the entries of a batch.

    Raises:
      DoesNotFitError: it needs more memory than a device has.
    """
    log.info("Compiling the step: seconds for a small network, a few minutes for a large one ...")
    begin = time.monotonic()
    step = compiled(x, state, batch)
    memory, seconds = step.memory_analysis(), time.monotonic() - begin
    found = Compiled(seconds, memory.temp_size_in_bytes, memory.argument_size_in_bytes)
    log.info(
        "Compiled the step in %.0f s: %.2f GB a device beside %.2f GB of state and batch",
        found.seconds, found.temporary / 1e9, found.arguments / 1e9,
    )  # fmt: skip
    device_memory.check_step(x, step)
    return step, found
