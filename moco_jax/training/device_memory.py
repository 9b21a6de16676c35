"""Whether a step fits the devices, and which options reduce what it needs, by how much.

B batch; sizes are bytes on one device.
"""

import math
import re

import jax

from moco_jax import mesh as meshes
from moco_jax.errors import DoesNotFitError, InputError
from moco_jax.methods.networks import check_accumulate
from moco_jax.training.experiment import Experiment, abstract_state
from moco_jax.training.step import TrainState

_EXCEEDS = re.compile(r"Used ([\d.]+\w) of ([\d.]+\w) hbm|\(([\d.]+\w)\) exceeds .*?\(([\d.]+\w)\)")


def capacity(x: Experiment) -> int:
    """What a device can hold; 0 where it does not tell."""
    stats = x.mesh.local_devices[0].memory_stats() or {}
    return stats.get("bytes_limit", 0)


def check_state(x: Experiment) -> None:
    """Refuses, before it is made, a state that is larger than a device.

    Raises:
      DoesNotFitError: with the options that reduce it.
    """
    _check(x, _size(abstract_state(x)), 0)


def check_step(x: Experiment, step: jax.stages.Compiled) -> None:
    """Refuses a compiled step that needs more than a device has.

    Args:
      x: its experiment.
      step: compiled for the devices that are here.

    Raises:
      DoesNotFitError: with the options that reduce it.
    """
    memory = step.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    _check(x, memory.argument_size_in_bytes, memory.temp_size_in_bytes + results)


def refused(x: Experiment, error: jax.errors.JaxRuntimeError) -> Exception:
    """The error to raise for one of the compiler: that of a step that does not fit, or itself.

    Args:
      x: the experiment whose step was compiled.
      error: the compiler's.
    """
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message:
        return error
    found = _EXCEEDS.search(message)
    sizes = [part for part in found.groups() if part] if found else []
    what = "needs {}B of {}B a device".format(*sizes) if sizes else message.splitlines()[0]
    return _error(x, what, 0)


def _check(x: Experiment, kept: int, beside: int) -> None:
    room = capacity(x)
    if room and kept + beside > room:
        what = f"needs {_gb(kept + beside)} of {_gb(room)} a device"
        parts = f" ({_gb(kept)} of state and batch, {_gb(beside)} beside)" if beside else ""
        raise _error(x, what + parts, beside)


def _error(x: Experiment, what: str, beside: int) -> DoesNotFitError:
    return DoesNotFitError(
        f"the step does not fit: it {what}; what reduces it: {', '.join(remedies(x, beside))}"
    )


def remedies(x: Experiment, beside: int = 0) -> list[str]:
    """The options that reduce what the step needs, those that apply, and more devices.

    Args:
      x: the experiment.
      beside: what the step needs beside state and batch; 0: not known. It is activations mostly,
        in proportion to the images that go through the backbone at once.
    """
    c, found = x.config, []
    if slices := _more_slices(x):
        found.append(f"accumulate={slices}{_less(beside * (1 - c.accumulate / slices))}")
    trained = c.protocol == "pretraining" or c.supervised.train_backbone
    more = {"none": "products", "products": "full"}.get(c.model.remat)
    if trained and more and c.model.name != "pixels":
        found.append(f"model.remat={more!r}")
    if x.mesh.size > c.mesh.fsdp:
        split = x._replace(mesh=meshes.make_mesh(x.mesh.devices.ravel(), x.mesh.size))
        saved = _size(abstract_state(x)) - _size(abstract_state(split))
        found.append(f"mesh.fsdp={x.mesh.size}{_less(saved, 'about')}")
    if saved := _queue_saved(x):
        found.append(f"mesh.shard_queue=True{_less(saved, 'about')}")
    half = c.data.batch_size // 2
    if half and half % (x.mesh.size * c.accumulate * max(c.method.bn_group_size, 1)) == 0:
        found.append(f"data.batch_size={half}{_less(beside / 2)}")
    return [*found, "more devices"]


def _more_slices(x: Experiment) -> int:
    """The next larger `accumulate` that is exact; 0: there is none."""
    if x.config.protocol != "pretraining":
        return 0
    c, now = x.config.copy_and_resolve_references(), x.config.accumulate
    for slices in (2 * now, 3 * now, 4 * now):
        c.accumulate = slices
        try:
            check_accumulate(c, x.mesh.size)
        except InputError:
            continue
        return slices
    return 0


def _queue_saved(x: Experiment) -> float:
    """What splitting the queue saves; 0 where there is none, or it is split or cannot be."""
    layout = x.task.layout
    if not isinstance(layout, dict) or layout.get("queue") != meshes.WHOLE:
        return 0
    queue = abstract_state(x).method_state["queue"]
    whole = queue.size * queue.dtype.itemsize
    return whole * (1 - 1 / x.mesh.size) if queue.shape[0] % x.mesh.size == 0 else 0


def _size(state: TrainState) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )


def _less(size: float, how: str = "up to") -> str:
    return f" ({how} {_gb(size)} less)" if size >= 1e7 else ""


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
