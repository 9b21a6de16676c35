"""The augmentation's share of a step: operations and bytes, without an accelerator.

python -m benchmarks.augment --config=configs/v3_vit.py:b16

Operations of the step are counted by XLA before optimization; operations and bytes of the two
views after it, on the CPU, where loops are fused as on other devices. Each tap of the blur counts
as a read of its own, though a cache serves all but the first: a second figure has each pixel read
once instead. What the counts would take on one H200 follows from its data sheet and a share of it
that training reaches.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from moco_jax.data import augment
from moco_jax.methods.method import Batch
from moco_jax.training import experiment
from moco_jax.training.step import init_state, make_train_step

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment whose step is counted.")

_BATCH = 8
_MATMUL, _VECTOR, _MEMORY = 989e12, 67e12, 4.8e12  # H200: bfloat16, float32 FLOP/s, bytes/s
_BLUR_PASSES = 16  # of two views along two axes: padding and sum, each read and written
_REACHED = 0.4  # share of the matmul rate that a Vision Transformer's training reaches


def _no_blur(recipe: ConfigDict) -> tuple[str, ...]:
    return tuple(name for name in recipe.order if name != "blur")


def count(view: Callable[[dict, int], jax.Array], batch: dict) -> tuple[float, float]:
    """Operations and bytes of both views of an image; loops whole, not one turn of them."""
    with mock.patch.object(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True)):
        lowered = jax.jit(lambda batch: (view(batch, 0), view(batch, 1))).lower(batch)
    cost = lowered.compile().cost_analysis()
    return cost["flops"] / _BATCH, cost["bytes accessed"] / _BATCH


def main(argv: Sequence[str]) -> None:
    del argv
    c = CONFIG.value
    size = c.data.image_size
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/images.npz", images=np.zeros((_BATCH, 8, 8, 3), np.uint8))
        c.data.update(source=f"npz:{folder}/images.npz", batch_size=_BATCH, eval_batch_size=_BATCH)
        x = experiment.build(c)
    numbers = jax.ShapeDtypeStruct((_BATCH,), jnp.int32)
    batch = {"crops": (jax.ShapeDtypeStruct((_BATCH, size, size, 3), jnp.uint8),) * 2}
    batch |= dict.fromkeys(("index", "epoch", "label"), numbers)
    step = make_train_step(x.task, x.tx, x.schedule, x.frozen, c.seed)
    state = jax.eval_shape(lambda key: init_state(x.task, x.tx, key), jax.random.key(0))
    whole = jax.jit(step).lower(state, Batch(batch, x.augment)).cost_analysis()["flops"] / _BATCH
    step_time = whole / (_REACHED * _MATMUL)
    print(f"step: {whole / 1e9:.0f} GFLOP an image, {1e6 * step_time:.0f} us on one H200")
    recipes = c.data.view1, c.data.view2
    without = [ConfigDict(r.to_dict() | {"order": _no_blur(r)}) for r in recipes]
    counted = {
        name: count(augment.make_views(views, size, x.mean, x.std, c.seed), batch)
        for name, views in (("each tap a read", recipes), ("no blur", without))
    }
    flops, rest = counted["each tap a read"][0], counted["no blur"][1]
    counted["each pixel a read"] = flops, rest + _BLUR_PASSES * 4 * 3 * size**2
    for name, (flops, moved) in counted.items():
        memory, vector = moved / _MEMORY, flops / _VECTOR
        print(
            f"views, {name}: {flops / 1e9:.3f} GFLOP, {moved / 1e6:.0f} MB an image: "
            f"{1e6 * vector:.1f} us of arithmetic, {1e6 * memory:.1f} us of memory, "
            f"{memory / step_time:.1%} of the step"
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
