"""The training step: images a second, MFU, memory, time to compile; and PyTorch's in the same run.

    python -m benchmarks.step --config=configs/v3_vit.py:s16 --config.data.batch_size=256 --peer
    python -m benchmarks.step --config=configs/v2_r18_cifar10.py --seconds=30 --peer

The images are random and lie on the device. Two steps of ours are timed: whole, and on views that
are augmented already, which is what the peer's does (benchmarks/torch_step.py). All are timed in
turn, in `--rounds`; the median counts. With a GPU or TPU by the clock; on a CPU, which others may
use too, also by CPU seconds, of which the ratio to the peer is.

MFU = operations of the model in a step / (seconds of a step * peak of the devices): the operations
are `cost.absent.useful_operations`, products alone, each counted once; the peak is the data
sheet's (cost/chips.py), dense bfloat16.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from moco_jax import mesh as meshes
from moco_jax.cost import absent
from moco_jax.cost.chips import chip_of
from moco_jax.cost.estimate import compiled_step
from moco_jax.training import experiment
from moco_jax.training.experiment import Experiment

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.")
PEER = flags.DEFINE_bool("peer", False, "Also PyTorch's step, eager and compiled.")
EAGER = flags.DEFINE_bool("eager_only", False, "Of the peer, not torch.compile.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "In which all are timed in turn.", 1)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of a round of each, about.", 0.0)

Step = Callable[[], None]  # runs one, to its end


class Contestant(NamedTuple):
    """A step that is timed.

    Attributes:
      name: in the table.
      step: runs one and waits for it.
      compiled_in: seconds to make it ready, its first run included.
      memory: bytes a device at its peak; 0: not known.
    """

    name: str
    step: Step
    compiled_in: float
    memory: int


def on_ready_views(x: Experiment) -> tuple[Experiment, dict[str, Any]]:
    """The same experiment on views that are augmented already, and the shapes of its batch."""
    shapes = absent.ready_shapes(x)
    return x._replace(augment=lambda entries, which: entries["views"][which]), shapes


def ours(name: str, x: Experiment, shapes: dict[str, Any]) -> Contestant:
    begin = time.perf_counter()
    compiled = compiled_step(x, shapes)
    batch = jax.device_put(jax.tree.map(_random, shapes), meshes.batched(x.mesh))
    state = experiment.fresh_state(x)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics["loss"])

    step()
    account = compiled.memory_analysis()
    planned = account.argument_size_in_bytes + account.temp_size_in_bytes
    return Contestant(name, step, time.perf_counter() - begin, planned)


def _random(shape: jax.ShapeDtypeStruct) -> jax.Array:
    key = jax.random.key(0)
    if shape.dtype == jnp.uint8:
        return jax.random.bits(key, shape.shape, jnp.uint8)
    if shape.dtype == jnp.float32:
        return jax.random.normal(key, shape.shape)
    return jnp.arange(shape.shape[0], dtype=shape.dtype)


def peer(x: Experiment, compiled: bool) -> Contestant:
    # Threads of OpenMP that wait shall not count as CPU seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from benchmarks.torch_step import Peer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    begin, c, channels = time.perf_counter(), x.config, x.data.train.channels
    bfloat16 = c.model.dtype == "bfloat16"
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    them = Peer(c, channels, device, bfloat16, compiled)
    size = c.data.image_size
    views = torch.randn(2, c.data.batch_size, channels, size, size, device=device)
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]

    def step() -> None:
        them.step(*views)
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    name = f"PyTorch {torch.__version__}, {'torch.compile' if compiled else 'eager'}"
    return Contestant(name, step, time.perf_counter() - begin, memory)


def timed(step: Step, seconds: float) -> tuple[float, float]:
    """Wall and CPU seconds of a step, the mean of as many as fit the given time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for count in itertools.count(1):  # noqa: B007
        step()
        if time.perf_counter() - wall > seconds:
            break
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def describe(x: Experiment, one: Contestant, rounds: list[tuple[float, float]]) -> str:
    wall, cpu = (statistics.median(column) for column in zip(*rounds))
    useful, chip = absent.useful_operations(x), chip_of(x.mesh.devices.flat[0])
    rate = useful / wall / x.mesh.size
    reached = f"MFU {rate / chip.operations:.1%}" if chip else f"{rate / 1e9:.3g} GFLOP/s a device"
    memory = f"{one.memory / 1e9:.2f} GB" if one.memory else "not measured"
    return (
        f"{one.name}: {x.config.data.batch_size / wall:,.1f} images/s, {1e3 * wall:.4g} ms a step, "
        f"{cpu:.4g} CPU s, {reached}, memory {memory}, ready in {one.compiled_in:.1f} s"
    )


def main(argv: Sequence[str]) -> None:
    del argv
    x = absent.build(CONFIG.value, jax.devices(), None)
    print(
        f"{x.mesh.size} x {x.mesh.devices.flat[0].device_kind}, batch {x.config.data.batch_size}, "
        f"{x.config.model.dtype}, {absent.useful_operations(x) / 1e9:.4g} GFLOP a step"
    )
    all_ = [
        ours("ours", x, absent.batch_shapes(x)),
        ours("ours on ready views", *on_ready_views(x)),
    ]
    if PEER.value:
        all_ += [peer(x, compiled) for compiled in ((False,) if EAGER.value else (False, True))]
    rounds = {one.name: [] for one in all_}
    for _ in range(ROUNDS.value):
        for one in all_:
            rounds[one.name].append(timed(one.step, SECONDS.value))
    for one in all_:
        print(describe(x, one, rounds[one.name]))
    clock = int(x.mesh.devices.flat[0].platform == "cpu")
    mine = rounds[all_[1].name]
    for one in all_[2:]:
        ratios = [a[clock] / b[clock] for a, b in zip(mine, rounds[one.name])]
        print(f"ours on ready views / {one.name}: {statistics.median(ratios):.3f} of its "
              f"{('', 'CPU ')[clock]}time ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
