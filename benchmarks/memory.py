"""Memory of the training step on one device by the compiler's account, and its time.

python -m benchmarks.memory --config=configs/v3_vit.py:b16 --accumulate=1,64
python -m benchmarks.memory ... --topology=v5p:2x2x1       compiles for a TPU that is not there
python -m benchmarks.memory ... --steps=3                  runs it too, here

The images are random and the batch is the recipe's. A topology needs `jax[tpu]`; of the step on
all devices `python -m moco_jax plan` says more.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from moco_jax import mesh as meshes
from moco_jax.cost import absent
from moco_jax.cost.chips import absent_devices
from moco_jax.cost.estimate import compiled_step
from moco_jax.errors import DoesNotFitError
from moco_jax.training import experiment
from moco_jax.training.experiment import Experiment

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.")
ACCUMULATE = flags.DEFINE_list("accumulate", ["1"], "Slices of the batch, to be compared.")
TOPOLOGY = flags.DEFINE_string("topology", "", "TPU to compile for; '': this machine's device.")
STEPS = flags.DEFINE_integer("steps", 0, "Steps to run and time, the best of which counts.")


def build(c: ConfigDict) -> Experiment:
    """The experiment on one device, with as many images as its batch has."""
    devices = absent_devices(TOPOLOGY.value) if TOPOLOGY.value else jax.devices()
    return absent.build(c, devices[:1], absent.Size(c.data.batch_size))


def random_batch(c: ConfigDict) -> dict[str, jax.Array]:
    """A batch as the host sends it, both views cropped."""
    shape = (2, c.data.batch_size, c.data.image_size, c.data.image_size, 3)
    images = jax.random.bits(jax.random.key(0), shape, jnp.uint8)
    index = jnp.arange(c.data.batch_size, dtype=jnp.int32)
    return {"crops": tuple(images)} | dict.fromkeys(("index", "epoch", "label"), index)


def measure(c: ConfigDict) -> str:
    """A line of figures, or what the compiler says where the step does not fit the device."""
    x, begin = build(c), time.perf_counter()
    try:
        step = compiled_step(x)
    except DoesNotFitError as error:
        return str(error)
    seconds, memory = time.perf_counter() - begin, step.memory_analysis()
    text = (
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB beside "
        f"{memory.argument_size_in_bytes / 1e9:.2f} GB of state and batch, "
        f"compiled in {seconds:.0f} s"
    )
    return f"{text}, a step {run(x, step, random_batch(c)):.2f} s" if STEPS.value else text


def run(x: Experiment, step: jax.stages.Compiled, batch: dict) -> float:
    """Seconds of the fastest step."""
    state, seconds = experiment.fresh_state(x), []
    batch = jax.device_put(batch, meshes.batched(x.mesh))
    for _ in range(STEPS.value):
        begin = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main(argv: Sequence[str]) -> None:
    del argv
    for accumulate in ACCUMULATE.value:
        c = CONFIG.value.copy_and_resolve_references()
        c.accumulate = int(accumulate)
        print(f"accumulate={accumulate}, batch {c.data.batch_size}: {measure(c)}", flush=True)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
