"""Convolutions of a ResNet on its smallest maps: XLA's own against `models.resnet.convolve`.

python -m benchmarks.small_maps
Each row is a convolution with both its gradients, in ms.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from moco_jax.models.resnet import convolve

# Height and width of the image, channels in and out, stride.
CASES = ((4, 32, 64, 2), (2, 64, 64, 1), (2, 64, 128, 2), (1, 128, 128, 1), (2, 128, 128, 1))
OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def milliseconds(f: Callable, *arrays: jax.Array) -> float:
    """The least of five times."""
    jax.block_until_ready(f(*arrays))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(f(*arrays))
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def with_gradients(conv: Callable, stride: int) -> Callable:
    """A convolution's sum and the gradients of image and kernel, jitted."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = conv(x, kernel, (stride, stride), [(1, 1), (1, 1)], **OPTIONS)
        return jnp.sum(jnp.sin(y))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    print("| image, channels, stride | lax.conv_general_dilated | convolve | ratio |")
    print("|---|---|---|---|")
    for side, channels, out, stride in CASES:
        x = jax.random.normal(jax.random.key(0), (args.batch, side, side, channels))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, out))
        theirs, ours = (
            milliseconds(with_gradients(conv, stride), x, kernel)
            for conv in (jax.lax.conv_general_dilated, convolve)
        )
        name = f"{side}x{side}, {channels} to {out}, {stride}"
        print(f"| {name} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
