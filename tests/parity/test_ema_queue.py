"""The momentum encoder against float64 NumPy, and the queue against a deque."""

from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.ops.ema import ema_update, make_ema_schedule
from moco_jax.ops.queue import newest

pytestmark = pytest.mark.parity
STEPS = 40


@pytest.mark.parametrize(("kind", "m0"), [("constant", 0.999), ("cosine", 0.99), ("cosine", 0.0)])
def test_ema_over_a_schedule(kind, m0):
    """Tolerance 3e-6: values up to 3, and 40 steps that each round m and the target to 6e-8."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (5, 4), "bias": (4,), "scalar": ()}
    target = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    expected = {name: p.astype(np.float64) for name, p in target.items()}
    schedule = make_ema_schedule(kind, m0, STEPS)
    step_once = jax.jit(lambda target, online, step: ema_update(target, online, schedule(step)))
    for t in range(STEPS):
        online = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        m = 1 - 0.5 * (1 + np.cos(np.pi * t / STEPS)) * (1 - m0) if kind == "cosine" else m0
        np.testing.assert_allclose(schedule(t), m, rtol=1e-6, atol=1e-7)
        expected = {name: m * p + (1 - m) * online[name] for name, p in expected.items()}
        target = step_once(target, online, jnp.int32(t))
        for name in shapes:
            np.testing.assert_allclose(target[name], expected[name], rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("size", "batch"), [(10, 4), (13, 13), (7, 16), (7, 21), (64, 8), (5, 1), (1, 3), (3, 2)]
)
def test_queue_is_first_in_first_out(size, batch):
    """Bitwise: nothing is computed."""
    rng = np.random.default_rng(size)
    queue, ptr = jnp.array(rng.normal(size=(size, 3)), jnp.float32), jnp.int32(0)
    expected = deque(np.asarray(queue), maxlen=size)

    @partial(jax.jit, donate_argnums=(0, 1))
    def push(queue, ptr, keys):
        rows, keys, ptr = newest(size, ptr, keys)
        return queue.at[rows].set(keys, unique_indices=True), ptr

    for _ in range(30):
        keys = rng.normal(size=(batch, 3)).astype(np.float32)
        queue, ptr = push(queue, ptr, keys)
        expected.extend(keys)
        assert 0 <= ptr < size
        oldest_first = np.roll(queue, -int(ptr), axis=0)
        np.testing.assert_array_equal(oldest_first, np.stack(expected))
