"""The learning rate over a run."""

import math

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError
from moco_jax.ops.course import Course, over


def make_schedule(
    optim: ConfigDict, batch_size: int, total_steps: int | Course, steps_per_epoch: float
) -> optax.Schedule:
    """Builds step -> learning rate, float32; the step may be traced.

    The peak is base_lr * batch_size / 256 (arXiv:1706.02677). It is reached linearly from 0
    over the warmup, and then follows half a cosine to 0 at `total_steps`, or drops.

    Args:
      optim: `config.optim`.
      batch_size: images over all devices.
      total_steps: of the run.
      steps_per_epoch: need not be whole; epochs in `optim` are counted in such parts.

    Raises:
      InputError: the warmup is longer than the run, or a part of it that starts anew.
    """
    peak, warmup = optim.base_lr * batch_size / 256, optim.warmup_epochs * steps_per_epoch

    def make(steps: int) -> optax.Schedule:
        if warmup >= steps:
            raise InputError(
                f"optim.warmup_epochs={optim.warmup_epochs}: expected 0 or more and below the "
                f"{steps / steps_per_epoch:g} epochs of the run"
            )
        shape = _shape(optim, warmup, steps, steps_per_epoch)

        def schedule(step: jax.Array) -> jax.Array:
            t = jnp.minimum(jnp.asarray(step, jnp.float32), steps)
            # Below one step of warmup only t = 0 is in it, where the divisor has no effect.
            return peak * jnp.where(t < warmup, t / max(warmup, 1.0), shape(t))

        return schedule

    return over(total_steps, make)


def _shape(
    optim: ConfigDict, warmup: float, total_steps: int, steps_per_epoch: float
) -> optax.Schedule:
    """Step -> share of the peak after the warmup."""
    drops = jnp.array([epoch * steps_per_epoch for epoch in optim.step_epochs], jnp.float32)

    def cosine(t: jax.Array) -> jax.Array:
        return 0.5 * (1 + jnp.cos(math.pi * (t - warmup) / (total_steps - warmup)))

    def steps(t: jax.Array) -> jax.Array:
        return jnp.prod(jnp.where(t >= drops, optim.step_factor, 1.0))

    return {"cosine": cosine, "step": steps}[optim.schedule]
