"""The bounds that a compiled step sets to speed and price, and their words."""

import time
from typing import Any, NamedTuple

import jax

from moco_jax.cost.absent import batch_shapes, useful_operations
from moco_jax.cost.chips import Chip, chip_of
from moco_jax.cost.program import Program, read
from moco_jax.training import experiment
from moco_jax.training.compilation import compiled
from moco_jax.training.experiment import Experiment


class Estimate(NamedTuple):
    """What a run costs by its compiled step; seconds are those of a step.

    Attributes:
      name: of the devices' kind.
      chip: their data sheet; None: there is none here.
      chips: devices.
      batch: images of a step, over all devices.
      steps: of the run.
      program: what a device needs.
      useful: operations of the model in a step, a device's share.
      compiled_in: seconds that compiling took.
    """

    name: str
    chip: Chip | None
    chips: int
    batch: int
    steps: int
    program: Program
    useful: float
    compiled_in: float

    @property
    def memory(self) -> int:
        """Bytes that a device needs."""
        return sum(self.program.memory.values())

    @property
    def limits(self) -> dict[str, float]:
        """Seconds that a step takes at least for operations, memory and links, by the data sheet.

        Where the compiler's counts miss the turns of loops, operations are the useful ones and
        there is no limit for memory.
        """
        p, chip = self.program, self.chip
        if chip is None:
            return {}
        computed = self.useful if p.loops else max(p.operations, self.useful)
        limits = {"operations": computed / chip.operations, "links": p.sent / chip.link}
        return limits if p.loops else limits | {"memory": p.bytes / chip.bandwidth}

    @property
    def expected(self) -> float:
        """Seconds by the cycles that the compiler expects; 0 where it says nothing."""
        return self.program.cycles / self.chip.clock if self.chip and self.chip.clock else 0.0

    def utilization(self, seconds: float) -> float:
        """MFU: the share of the peak that the model's operations are, at a step of `seconds`."""
        return self.useful / self.chip.operations / seconds

    def hours(self, seconds: float) -> float:
        """Hours of the whole run."""
        return self.steps * seconds / 3600


def compiled_step(x: Experiment, batch: dict[str, Any] | None = None) -> jax.stages.Compiled:
    """The training step of an experiment, compiled for its devices.

    Args:
      x: the experiment.
      batch: shapes of the entries of a batch; None: those that training has.

    Raises:
      DoesNotFitError: the compiler says that the step needs more memory than a device has.
    """
    return compiled(x, experiment.abstract_state(x), batch or batch_shapes(x))


def estimate(x: Experiment) -> Estimate:
    """Compiles the step of an experiment and reads what it costs; see `compiled_step`."""
    device, useful, begin = x.mesh.devices.flat[0], useful_operations(x), time.monotonic()
    step = compiled_step(x)
    return Estimate(
        name=device.device_kind,
        chip=chip_of(device),
        chips=x.mesh.size,
        batch=x.config.data.batch_size,
        steps=x.steps,
        program=read(step),
        useful=useful / x.mesh.size,
        compiled_in=time.monotonic() - begin,
    )


def describe(e: Estimate, price: float = 0.0) -> list[str]:
    """The estimate in lines.

    Args:
      e: the estimate.
      price: of an hour of one chip, in any currency; 0: not known.
    """
    p, images = e.program, e.batch / e.chips
    parts = ", ".join(f"{kind} {_gb(size)}" for kind, size in p.memory.items())
    room = f" of {_gb(e.chip.memory)} GB ({e.memory / e.chip.memory:.0%})" if e.chip else " GB"
    sent = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in sorted(p.collectives.items()))
    once = ", a loop's body once" if p.loops else ""
    lines = [
        f"{e.chips} x {e.name}, batch {e.batch}: {images:g} images a chip; compiled in "
        f"{e.compiled_in:.0f} s. A chip and step:",
        f"memory: {_gb(e.memory)}{room}: {parts}",
        f"operations: {p.operations / 1e9:.4g} G by the compiler's count{once}, "
        f"{e.useful / 1e9:.4g} G useful" + ("" if p.loops else f" ({e.useful / p.operations:.1%})"),
        f"operations of the model: {e.useful / images / 1e9:.4g} G an image",
        f"memory traffic: {p.bytes / 1e9:.4g} GB by the compiler's estimate{once}",
        f"collectives, MB that come out: {sent or 'none'}",
    ]
    if e.chip is None:
        return [*lines, f"no data sheet of {e.name!r}: no bounds"]
    limits = e.limits
    bounds = ", ".join(f"{kind} {1e3 * seconds:.4g}" for kind, seconds in limits.items())
    lines += [f"bounds, ms: {bounds}", _outlook("roofline", e, max(limits.values()), price)]
    if e.expected:
        lines.append(_outlook(f"compiler, {p.cycles:.4g} cycles", e, e.expected, price))
    return lines


def _outlook(what: str, e: Estimate, seconds: float, price: float) -> str:
    """What a step of so many seconds means for the run."""
    hours = e.hours(seconds)
    cost = f", price {hours * price * e.chips:.4g}" if price else ""
    return (
        f"{what}: {1e3 * seconds:.4g} ms a step, {e.batch / seconds:,.0f} images/s, MFU "
        f"{e.utilization(seconds):.0%}, {hours:.3g} hours of {e.steps} steps{cost}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}"
