"""The training step, compiled: how long it took, what it needs, and that it fits."""

import logging
import time
from collections.abc import Callable
from functools import partial
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
) -> tuple[Callable[[Any, dict[str, Any]], Any], Compiled]:
    """The compiled step, how long it took and what it needs; says so too.

    Where batches come on several canvases, it is compiled for each.

    Args:
      x: the experiment.
      state: a TrainState.
      batch: the entries of a batch.

    Raises:
      DoesNotFitError: it needs more memory than a device has.
    """
    log.info("Compiling the step: seconds for a small network, a few minutes for a large one ...")
    begin, shapes = time.monotonic(), _shapes(x, batch)
    steps = {size: compiled(x, state, like) for size, like in shapes.items()}
    memories, seconds = [s.memory_analysis() for s in steps.values()], time.monotonic() - begin
    found = Compiled(
        seconds,
        max(memory.temp_size_in_bytes for memory in memories),
        max(memory.argument_size_in_bytes for memory in memories),
    )
    log.info(
        "Compiled the step%s in %.0f s: %.2f GB a device beside %.2f GB of state and batch",
        f" for {len(steps)} canvases" if len(steps) > 1 else "",
        found.seconds, found.temporary / 1e9, found.arguments / 1e9,
    )  # fmt: skip
    for step in steps.values():
        device_memory.check_step(x, step)
    if len(steps) == 1:
        return step, found
    return lambda state, batch: steps[batch["image"].shape](state, batch), found


def _shapes(x: Experiment, batch: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """The entries of a batch, or their shapes, for each canvas: shape of the images -> entries."""
    canvases = x.own.canvases if x.own else ()
    if len(canvases) < 2:
        return {None: batch}
    image = batch["image"]
    shapes = [(len(image), *canvas, image.shape[-1]) for canvas in canvases]
    like = partial(jax.ShapeDtypeStruct, dtype=image.dtype, sharding=image.sharding)
    return {shape: batch | {"image": like(shape)} for shape in shapes}
