"""Checksums of arrays, computed on the device, equal for any sharding and number of devices.

Every 32-bit word of an array is hashed together with its position; a checksum is the sum of
the hashes modulo 2**32, which is exact, so its order does not matter.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def tree_checksums(tree: Any) -> Any:
    """Two independent 32-bit checksums of every leaf.

    A changed word is always noticed. `_mix` is made of steps that can be undone (a number
    xored with itself shifted right, or multiplied by an odd number modulo 2**32), so at any
    position different words have different hashes, and replacing one hash by another moves a
    sum modulo 2**32. Words of bits flipped, swapped or changed together are missed with a
    chance of about 2**-64. (Sums weighted by odd numbers alone would never see x and -x
    swapped: the words differ by 2**31, the weights by an even number.)

    Args:
      tree: jax arrays of any rank, boolean, integer or floating, of 8 to 64 bits, sharded in
        any way.

    Returns:
      The same tree with a replicated uint32 array (2,) for each leaf.
    """
    return jax.tree.map(_checksum, tree)


@jax.jit  # per leaf: many leaves share a shape, and a tree of hundreds compiles slowly as one
def _checksum(x: jax.Array) -> jax.Array:
    words = _words(x)
    first = _mix(words ^ _mix(_positions(words.shape)))
    second = _mix(first ^ jnp.uint32(0x9E3779B9))
    return jnp.stack([jnp.sum(h, dtype=jnp.uint32) for h in (first, second)])


def _words(x: jax.Array) -> jax.Array:
    """The bits of x as uint32, one word an element (8 to 32 bits) or two in a last axis (64)."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    bits = min(8 * x.dtype.itemsize, 32)
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major index of every element, uint32; without a reshape, which sharding would pay for."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(int(np.prod(shape[axis + 1 :], dtype=object)) % 2**32)
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return index


def _mix(x: jax.Array) -> jax.Array:
    """A one-to-one scrambling of uint32: the finalizer of MurmurHash3 (public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
