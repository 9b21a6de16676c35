"""One block's cycles by the TPU compiler's estimate, and which operations they go to.

    python -m benchmarks.blocks vit_base vit_small resnet50_1 --topology=v4:2x2x1

Needs the extra `tpu` and no TPU. Compiled for one chip in bfloat16: the forward pass and the
gradient of a ViT's block on 64 (base) or 256 images of 197 tokens, or of a bottleneck of
ResNet-50's first or third stage on 32: a step's, without augmentation, heads and optimizer.
An operation is named by what JAX calls it; the fused one that it ends counts.
"""

import argparse
import collections
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.cost import hlo
from moco_jax.cost.chips import absent_devices, chip_of
from moco_jax.cost.program import expected_cycles
from moco_jax.models import resnet, vit
from moco_jax.models.attention import plain
from moco_jax.models.block import Block

TOKENS, BF16 = 197, jnp.bfloat16
_NAME = re.compile(r'op_name="([^"]*)"')


def transformer(size: str, images: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A ViT's block and the shape of what it takes."""
    width, _, heads = vit.SIZES[size]
    norm = partial(vit._layer_norm, vit.NORM_EPS, BF16)
    return Block(heads, norm, plain, BF16), (images, TOKENS, width)


def bottleneck(stage: int, images: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A later block of a ResNet-50's stage and the shape of what it takes."""
    features, side = 64 * 2 ** (stage - 1), 56 // 2 ** (stage - 1)
    return resnet.Block(features, 1, True, False, 1, BF16), (images, side, side, 4 * features)


BLOCKS = {
    "vit_base": partial(transformer, "base", 64),
    "vit_small": partial(transformer, "small", 256),
    "resnet50_1": partial(bottleneck, 1, 32),
    "resnet50_3": partial(bottleneck, 3, 32),
}


def compiled(block: nn.Module, shape: tuple[int, ...], gradient: bool, device: jax.Device) -> Any:
    """The block's forward pass, or that and its gradient, compiled for an absent device."""
    x = jax.ShapeDtypeStruct(shape, BF16)
    variables = jax.eval_shape(partial(block.init, train=True), jax.random.key(0), x)

    def forward(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        stats = {k: v for k, v in variables.items() if k != "params"}
        stats = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), stats)
        return block.apply({"params": params} | stats, x, train=True, mutable=["batch_stats"])

    def both(params: Any, x: jax.Array, g: jax.Array) -> Any:
        y, pull, new = jax.vjp(forward, params, x, has_aux=True)
        return y, pull(g), new

    place = jax.sharding.SingleDeviceSharding(device)
    arguments = (variables["params"], x, x) if gradient else (variables["params"], x)
    step = jax.jit(both if gradient else forward, in_shardings=place, out_shardings=place)
    return step.lower(*arguments).compile()


def by_operation(text: str, clock: float) -> collections.Counter:
    """Milliseconds of the compiler's cycles by operation."""
    cycles = collections.Counter()
    for turns, line in hlo.parse(text).lines():
        name = _NAME.search(line)
        name = name[1].partition("/")[2] if name else "copies without a name"
        cycles[name] += turns * expected_cycles(line)
    return collections.Counter({name: 1e3 * n / clock for name, n in cycles.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("blocks", nargs="*", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--topology", default="v4:2x2x1")
    parser.add_argument("--top", type=int, default=12, help="operations that are listed")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    device = absent_devices(flags.topology)[0]
    chip = chip_of(device)
    for name in flags.blocks:
        for gradient in (False, True):
            ready = compiled(*BLOCKS[name](), gradient, device)
            times, cost = by_operation(ready.as_text(), chip.clock), ready.cost_analysis()
            kind, peak = "with" if gradient else "without", 1e3 * cost["flops"] / chip.operations
            memory = ready.memory_analysis().temp_size_in_bytes / 1e9
            traffic = cost["bytes accessed"] / 1e9
            print(f"{name}, {kind} gradient: {times.total():.3f} ms; at the peak {peak:.3f}; "
                  f"traffic {traffic:.2f} GB, temporary {memory:.2f}")  # fmt: skip
            for operation, time in times.most_common(flags.top):
                print(f"    {time:.3f} {operation}")


if __name__ == "__main__":
    main()
