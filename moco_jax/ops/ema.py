"""The momentum encoder: an exponential moving average of parameters, and its coefficient m."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import choose
from moco_jax.errors import InputError
from moco_jax.ops.course import Course, over

EMA_SCHEDULES = ("constant", "cosine")


def ema_update(target: Any, online: Any, m: jax.Array | float) -> Any:
    """The average m * target + (1 - m) * online, leaf by leaf (arXiv:1911.05722, eq. 2).

    Args:
      target: tree of float32 arrays, the key encoder's parameters.
      online: the query encoder's, the same tree.
      m: float32 scalar in [0, 1], the share that the target keeps.
    """
    return optax.incremental_update(online, target, 1.0 - m)


def make_ema_schedule(
    kind: str, m0: float, total_steps: int | Course
) -> Callable[[jax.Array], jax.Array]:
    """Builds step -> m, a float32 scalar; the step may be traced.

    Args:
      kind: 'constant', or 'cosine': 1 - (1 - m0) (1 + cos(pi t / T)) / 2, from m0 to 1
        (arXiv:2006.07733, section 3.3; MoCo v3's).
      m0: m at step 0, in [0, 1].
      total_steps: T, of the whole run; later steps keep the last value.

    Raises:
      InputError: an unknown kind, m0 outside [0, 1], or no steps.
    """
    choose("method.ema_schedule", kind, EMA_SCHEDULES)
    if not 0 <= m0 <= 1:
        raise InputError(f"method.ema={m0} must be in [0, 1]")

    def make(steps: int) -> Callable[[jax.Array], jax.Array]:
        if steps < 1:
            raise InputError(f"total_steps={steps} must be at least 1")

        def cosine(step: jax.Array) -> jax.Array:
            t = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
            return 1 - 0.5 * (1 + jnp.cos(math.pi * t)) * (1 - m0)

        return cosine if kind == "cosine" else lambda step: jnp.float32(m0)

    return over(total_steps, make)
