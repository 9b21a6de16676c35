"""RandAugment (arXiv:1909.13719) on the device, as DeiT (2012.12877) has it from timm.

That is 'rand-m9-mstd0.5-inc1': layers of one operation each, drawn with replacement, applied with
a probability of one half at a normally distributed level; all operations grow with the level.
The operations are PIL's, rounding included, with DeiT's bicubic interpolation.

Every function treats one image and is made for `jax.vmap`, under which `lax.switch` computes all
its branches: here they are elementwise but for two, and the five that warp are one warp. Images are
levels: float32 (H, W, C), whole numbers from 0 to 255.

Shapes: H W image, C channels, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from moco_jax.data.geometric import MAX_ANGLE, MAX_SHIFT, Warp, warp
from moco_jax.data.photometric import gray

MAX_LEVEL = 10.0
MAX_SHEAR = 0.3


class Draw(NamedTuple):
    """What is done to an image.

    Attributes:
      operation: int32 (L,), index into `OPERATIONS`; their number: none.
      level: float32 (L,), in [0, 1].
      sign: float32 (L,), 1 or -1, of operations that go two ways.
    """

    operation: Array
    level: Array
    sign: Array


def sample_randaugment(key: Array, layers: int, magnitude: float, std: float, p: float) -> Draw:
    """Draws what is done to one image.

    Args:
        key: random key.
        layers: L.
        magnitude: mean of the level, in [0, 10].
        std: standard deviation of the level, before it is cut to [0, 10].
        p: probability of each layer.
    """
    keys = jax.random.split(key, 4)
    operation = jax.random.randint(keys[0], (layers,), 0, len(OPERATIONS))
    applied = jax.random.bernoulli(keys[1], p, (layers,))
    level = (magnitude + std * jax.random.normal(keys[2], (layers,))) / MAX_LEVEL
    sign = jnp.where(jax.random.bernoulli(keys[3], 0.5, (layers,)), 1.0, -1.0)
    operation = jnp.where(applied, operation, len(OPERATIONS))
    return Draw(operation, jnp.clip(level, 0.0, 1.0), sign)


def randaugment(levels: Array, draw: Draw, fill: Array) -> Array:
    """Applies the layers in turn; pixels from outside have the colour `fill`, (C,) levels."""

    def layer(levels: Array, draw: Draw) -> tuple[Array, None]:
        # What warps leaves the colours to stay, and the other way round.
        branch = jnp.minimum(draw.operation, len(COLOURS))
        branches = (*COLOURS.values(), lambda levels, level, sign: levels)
        levels = jax.lax.switch(branch, branches, levels, draw.level, draw.sign)
        return warp(levels, _warp_of(draw, *levels.shape[:2]), fill), None

    return jax.lax.scan(layer, levels, draw)[0]


def levels_of(image: Array) -> Array:
    """Pixels in [0, 1] as levels."""
    return jnp.round(255.0 * image)


def _warp_of(draw: Draw, height: int, width: int) -> Warp:
    """The warp of one layer; that of an operation on colours is none."""
    drawn = draw.operation == len(COLOURS) + jnp.arange(len(WARPS))
    amount = jnp.where(drawn, draw.sign * draw.level, 0.0)
    size = jnp.array([width, height], jnp.float32)
    return Warp(MAX_ANGLE * amount[0], MAX_SHEAR * amount[1:3], MAX_SHIFT * size * amount[3:])


def _autocontrast(levels: Array, level: Array, sign: Array) -> Array:
    low, high = (f(levels, (0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    stretched = (levels - low) * 255.0 / jnp.maximum(high - low, 1.0)
    return jnp.where(high > low, _floor(stretched), levels)


def _equalize(levels: Array, level: Array, sign: Array) -> Array:
    # A histogram and a look-up as products of matrices: TPUs are slow to scatter and to gather.
    # They are exact in any precision that has the whole numbers to 256, as bfloat16 does.
    digits = jnp.arange(16, dtype=jnp.float32)[None, None, None]
    high = (jnp.floor(levels / 16)[..., None] == digits).astype(jnp.float32)
    low = ((levels % 16)[..., None] == digits).astype(jnp.float32)
    counts = jnp.einsum("hwcd,hwce->cde", high, low).reshape(-1, 256).astype(jnp.int32)
    below = jnp.cumsum(counts, 1) - counts
    step = jnp.max(jnp.where(counts > 0, below, 0), 1, keepdims=True) // 255
    equal = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, equal, jnp.arange(256)[None]).astype(jnp.float32)
    rows = jnp.einsum("hwcd,cde->hwce", high, table.reshape(-1, 16, 16))
    return jnp.sum(rows * low, -1)


def _invert(levels: Array, level: Array, sign: Array) -> Array:
    return 255.0 - levels


def _posterize(levels: Array, level: Array, sign: Array) -> Array:
    step = 2.0 ** (4.0 + _floor(4.0 * level))  # 4 to 0 bits stay
    return step * jnp.floor(levels / step)


def _solarize(levels: Array, level: Array, sign: Array) -> Array:
    return jnp.where(levels >= 256.0 - _floor(256.0 * level), 255.0 - levels, levels)


def _solarize_add(levels: Array, level: Array, sign: Array) -> Array:
    return jnp.where(levels < 128.0, jnp.minimum(levels + _floor(110.0 * level), 255.0), levels)


def _color(levels: Array, level: Array, sign: Array) -> Array:
    return _blend(levels, _gray(levels), level, sign) if levels.shape[-1] == 3 else levels


def _contrast(levels: Array, level: Array, sign: Array) -> Array:
    return _blend(levels, jnp.floor(jnp.mean(_gray(levels)) + 0.5), level, sign)


def _brightness(levels: Array, level: Array, sign: Array) -> Array:
    return _blend(levels, jnp.float32(0.0), level, sign)


def _sharpness(levels: Array, level: Array, sign: Array) -> Array:
    height, width = levels.shape[:2]
    square = [levels[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    smooth = jnp.floor((sum(square) + 4.0 * square[4]) / 13.0 + 0.5)
    return _blend(levels, levels.at[1:-1, 1:-1].set(smooth), level, sign)


def _blend(levels: Array, base: Array, level: Array, sign: Array) -> Array:
    factor = jnp.maximum(0.1, 1.0 + 0.9 * sign * level)
    return jnp.floor(jnp.clip(base + factor * (levels - base), 0.0, 255.0))


def _gray(levels: Array) -> Array:
    return jnp.floor(gray(levels) + 0.5)


def _floor(x: Array) -> Array:
    """The whole part of a quotient or product, which may be rounded to just below a whole one."""
    return jnp.floor(x + 1e-3)


COLOURS = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (*COLOURS, *WARPS)
