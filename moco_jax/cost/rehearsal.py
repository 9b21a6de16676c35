"""`--dry_run`: what a run costs here, by its compiled step and a few real ones; all is dropped."""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from moco_jax.bucket import BucketPath, Place
from moco_jax.config import ConfigDict
from moco_jax.cost.absent import refuse_features
from moco_jax.files import workdir_path
from moco_jax.metrics import duration
from moco_jax.report.origin import Compiled
from moco_jax.training import device_memory, own_run
from moco_jax.training.compilation import compile_step
from moco_jax.training.description import describe
from moco_jax.training.experiment import Experiment, abstract_state, build, train_batches
from moco_jax.training.first_state import first_state

_SECONDS = 5.0  # that steps, and batches, are timed for, roughly
_TIMES = (2, 50)  # at least and at most so many


def rehearse(
    config: ConfigDict, workdir: str, build: Callable[[ConfigDict], Experiment] = build
) -> list[str]:
    """Builds a run, compiles its step, times steps and batches; the account in lines.

    Args:
      config: of the run.
      workdir: that the run is to have; nothing is read or written there.
      build: makes the experiment; protocols of an upper floor have their own.

    Raises:
      InputError: the config or the data is wrong, or the step does not fit the devices.
      MissingError: `config.init` is not there.
    """
    path = workdir_path(workdir)
    refuse_features(config)
    own_run.check_init(config, path)
    x = build(config)
    describe(x)
    device_memory.check_state(x)
    with tempfile.TemporaryDirectory() as folder, train_batches(x, 0) as batches:
        state, batch = first_state(x, pathlib.Path(folder)), batches.get()
        step, found = compile_step(x, state, batch)
        of_step = _step_seconds(step, state, batch)
        for _ in range(config.data.prefetch + 1):  # made while steps were timed
            batches.get()
        of_batch = _timed(batches.get)
    told = [*_time(x, found, of_step, of_batch), *_canvas(x, batch)]
    return [_memory(x, found), *told, _disk(x, path)]


def _step_seconds(step: Callable, state: Any, batch: dict[str, Any]) -> float:
    """Seconds of a step, without its input; the state is used up."""

    def act() -> None:
        nonlocal state
        state, _ = step(state, batch)

    return _timed(act, lambda: jax.block_until_ready(state))


def _timed(act: Callable[[], Any], wait: Callable[[], Any] = lambda: None) -> float:
    """Seconds of a call; `wait` is called after all. A first one only says how many to time."""

    def total(times: int) -> float:
        begin = time.monotonic()
        for _ in range(times):
            act()
        wait()
        return time.monotonic() - begin

    least, most = _TIMES
    times = min(max(int(_SECONDS / max(total(1), 1e-6)), least), most)
    return total(times) / times


def _memory(x: Experiment, found: Compiled) -> str:
    kept, beside, room = found.arguments, found.temporary, device_memory.capacity(x)
    of = f" of {room / 1e9:.2f} GB ({(kept + beside) / room:.0%})" if room else " GB"
    silent = "" if room else "; the device does not tell how much it has"
    return (
        f"Memory of the step, a device: {(kept + beside) / 1e9:.2f}{of}: {kept / 1e9:.2f} of state "
        f"and batch, {beside / 1e9:.2f} beside{silent}"
    )


def _time(x: Experiment, found: Compiled, of_step: float, of_batch: float) -> list[str]:
    slower, images = max(of_step, of_batch), x.config.data.batch_size
    waits = f"it waits for its input {1 - of_step / slower:.0%} of the time"
    return [
        f"Compiled in {found.seconds:.1f} s",
        f"A step takes {of_step:.3g} s, its batch {of_batch:.3g} s: "
        f"{waits if of_batch > of_step else 'the input keeps up'}; {images / slower:,.0f} images/s",
        f"The run takes {duration(found.seconds + x.steps * slower)} for {x.steps} steps, without "
        f"its evaluations",
    ]


def _canvas(x: Experiment, batch: dict[str, Any]) -> list[str]:
    """Of several canvases, which one the steps were timed on."""
    if x.own is None or len(x.own.canvases) < 2:
        return []
    height, width = batch["image"].shape[1:3]
    return [f"Steps were timed on one canvas alone, {height} x {width}; memory is the most of "
            f"{len(x.own.canvases)}"]  # fmt: skip


def _disk(x: Experiment, path: Place) -> str:
    """What the checkpoints of the run take, and what is free."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state(x)))
    count = kept(x.config.checkpoint, x.steps)
    text = f"Checkpoints: {count} of {size / 1e9:.3g} GB, {count * size / 1e9:.3g} GB at most"
    if isinstance(path, BucketPath):
        return text
    there = next(p for p in (path, *path.parents) if p.exists())
    return f"{text}; {shutil.disk_usage(there).free / 1e9:.3g} GB are free at {there}"


def kept(checkpoint: ConfigDict, steps: int) -> int:
    """How many checkpoints there are when a run of so many steps ends."""
    every = checkpoint.every_steps
    saved = [*(range(every, steps, every) if every else ()), steps]
    good = checkpoint.keep_every_steps
    return sum(1 for step in saved[: -checkpoint.keep_last] if good and step % good == 0) + min(
        checkpoint.keep_last, len(saved)
    )
