"""How many operations the matrix products and convolutions of a function take, by its shapes alone.

A multiplication and an addition are two operations. A product with the zeros that pad or dilate a
convolution is none: published figures of convolutional networks count the padding. Nor is one by
an interpolation's matrix, whose weights are zeros but for a few (`INTERPOLATION`). What is not a
product (normalization, activations, the optimizer) is left out, as everywhere where the share of
a device's peak is given ("model FLOP utilization", arXiv:2204.02311, appendix B).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# A `jax.named_scope` for products that stand for gathers of a few values.
INTERPOLATION = "interpolation"


def operations(f: Callable, *args: Any) -> int:
    """Operations of `f(*args)` as it is written, before any compiler.

    Args:
      f: a function on arrays; a loop in it has a number of turns that is known.
      *args: trees of arrays or of their shapes.

    Raises:
      ValueError: there is a product in a loop whose turns are not known.
    """
    return _total(jax.make_jaxpr(f)(*args).jaxpr)


def _total(jaxpr: Jaxpr) -> int:
    return sum(map(_of, jaxpr.eqns))


def _of(eqn: JaxprEqn) -> int:
    if INTERPOLATION in str(eqn.source_info.name_stack):
        return 0
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        length = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * length * eqn.outvars[0].aval.size
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution(eqn)
    inner = [_total(jaxpr) for jaxpr in _inside(eqn)]
    if eqn.primitive.name == "scan":
        return eqn.params["length"] * sum(inner)
    if eqn.primitive.name == "cond":
        return max(inner)
    if eqn.primitive.name == "while" and any(inner):
        raise ValueError("a product in a loop of which nobody knows how often it turns")
    return sum(inner)


def _inside(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The functions that an operation calls."""
    found = jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
    )
    for value in found:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _convolution(eqn: JaxprEqn) -> int:
    p, (image, kernel), out = eqn.params, (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval
    image_axes, kernel_axes, out_axes = p["dimension_numbers"]
    pairs = [
        _pairs(image[i], kernel[k], out.shape[o], *rest)
        for i, k, o, *rest in zip(
            image_axes[2:], kernel_axes[2:], out_axes[2:], p["window_strides"], p["padding"],
            p["lhs_dilation"], p["rhs_dilation"], strict=True,
        )
    ]  # fmt: skip
    features = out.shape[out_axes[0]] * out.shape[out_axes[1]] * kernel[kernel_axes[1]]
    return 2 * features * math.prod(pairs)


def _pairs(
    image: int, kernel: int, out: int, stride: int, padding: tuple[int, int], *dilation: int
) -> int:
    """Pairs of a place in the output and one in the kernel that meet a pixel, along one axis."""
    spread, apart = dilation
    place = np.arange(out)[:, None] * stride + np.arange(kernel) * apart - padding[0]
    return int(((place % spread == 0) & (place >= 0) & (place < image * spread)).sum())
