"""Queue, EMA and checksums: shapes, limits, errors, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moco_jax.ops.checksum import tree_checksums
from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.queue import init_queue, newest
from tests.vectors import on_eight_devices, unit_vectors

# Queue


def test_init_queue_holds_different_random_unit_vectors():
    init = jax.jit(init_queue, static_argnums=(1, 2))
    queue = init(jax.random.key(0), 100, 16)
    assert queue.shape == (100, 16)
    assert queue.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)
    assert len(np.unique(queue, axis=0)) == 100
    assert not np.array_equal(queue, init(jax.random.key(1), 100, 16))


def enqueue(queue, ptr, keys):
    rows, keys, ptr = newest(len(queue), ptr, keys)
    return queue.at[rows].set(keys), ptr


def test_enqueue_wraps_around_under_jit_and_on_eight_devices():
    queue, keys = jnp.array(unit_vectors(0, 20, 8)), unit_vectors(1, 16, 8)
    expected = np.array(queue)
    expected[np.arange(10, 26) % 20] = keys
    ptr = jnp.int32(10)
    for new_queue, new_ptr in (
        enqueue(queue, ptr, jnp.array(keys)),
        jax.jit(enqueue)(queue, ptr, on_eight_devices(keys)),
    ):
        np.testing.assert_array_equal(new_queue, expected)
        assert new_ptr == 6
        assert new_ptr.dtype == jnp.int32


# EMA


def test_ema_update_at_its_ends():
    target, online = {"w": jnp.full(3, 0.1)}, {"w": jnp.full(3, 0.7)}
    np.testing.assert_array_equal(ema_update(target, online, 1.0)["w"], target["w"])
    np.testing.assert_array_equal(ema_update(target, online, 0.0)["w"], online["w"])


def test_ema_schedules():
    constant, cosine = (make_ema_schedule(kind, 0.9, 100) for kind in ("constant", "cosine"))
    assert constant(0) == constant(jnp.int32(100)) == np.float32(0.9)
    np.testing.assert_allclose([cosine(t) for t in (0, 50, 100, 200)], [0.9, 0.95, 1, 1], rtol=1e-6)
    assert (
        jax.jit(cosine)(jnp.int32(50)).dtype == jax.jit(constant)(jnp.int32(5)).dtype == "float32"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosin", 0.9, 10), "did you mean 'cosine'"),
        (("cosine", 1.1, 10), "method.ema=1.1"),
        (("constant", float("nan"), 10), "method.ema=nan"),
        (("cosine", 0.9, 0), "total_steps=0"),
    ],
)
def test_bad_ema_schedule(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_ema_schedule(*arguments)


# Checksums

INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float16", "bfloat16", "float32", "float64"]


def checksum(x):
    return tuple(np.asarray(tree_checksums(jnp.asarray(x))).tolist())


def random_bytes(dtype, count):
    dtype = jnp.dtype(dtype)
    raw = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, np.uint8)
    return raw % 2 if dtype.name == "bool" else raw


def expected_checksum(words):
    """Python's integers; the values live in checkpoints, so they may not change."""

    def mix(x):
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    first = [mix(int(word) ^ mix(i)) for i, word in enumerate(words)]
    return sum(first) % 2**32, sum(mix(x ^ 0x9E3779B9) for x in first) % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_notices_every_flipped_bit(dtype):
    with jax.enable_x64(dtype.endswith("64")):
        raw = random_bytes(dtype, 6)
        view = jnp.dtype(dtype)
        original = checksum(raw.view(view).reshape(2, 3))
        seen = {original}
        for byte, bit in np.ndindex(raw.size, 1 if dtype == "bool" else 8):
            flipped = raw.copy()
            flipped[byte] ^= 1 << bit
            seen.add(checksum(flipped.view(view).reshape(2, 3)))
    assert len(seen) == 1 + raw.size * (1 if dtype == "bool" else 8)
    for value, lane in zip(original, zip(*seen, strict=True), strict=True):
        assert lane.count(value) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_has_the_documented_value(dtype):
    raw = random_bytes(dtype, 12)
    width = min(jnp.dtype(dtype).itemsize, 4)
    with jax.enable_x64(dtype.endswith("64")):
        actual = checksum(raw.view(jnp.dtype(dtype)).reshape(3, 2, 2))
    assert actual == expected_checksum(raw.view(f"uint{8 * width}"))


def test_checksum_notices_swaps_signs_and_lengths():
    x = np.array([1, -1, 2, 2.5, 0, -0.0], np.float32)
    seen = {checksum(x), checksum(x[:5]), checksum(np.zeros(5)), checksum(np.zeros(6))}
    swaps = [(i, j) for i in range(6) for j in range(i)]
    for i, j in swaps:
        order = np.arange(6)
        order[[i, j]] = j, i
        seen.add(checksum(x[order]))
    assert len(seen) == 4 + len(swaps)


def test_checksum_of_scalars_and_empty_arrays():
    assert checksum(np.float32(3)) == expected_checksum([np.float32(3).view(np.uint32)])
    assert checksum(np.zeros((0, 4), np.float32)) == (0, 0)


def test_checksums_are_bitwise_equal_for_any_sharding():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    x = np.random.default_rng(0).normal(size=(8, 6, 16)).astype(np.float32)
    expected = checksum(x)
    for spec in (P(), P("a"), P(None, "b"), P("a", "b"), P("b", None, "a"), P(("a", "b"))):
        sums = tree_checksums({"x": jax.device_put(x, NamedSharding(mesh, spec))})["x"]
        assert sums.is_fully_replicated
        assert sums.dtype == jnp.uint32
        assert tuple(sums.tolist()) == expected
