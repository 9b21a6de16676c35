"""The learning rate over a run."""

import math

import jax
import jax.numpy as jnp
import optax

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError


def make_schedule(
    optim: ConfigDict, batch_size: int, total_steps: int, steps_per_epoch: float
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
      InputError: the warmup is longer than the run.
    """
    epochs = total_steps / steps_per_epoch
    if optim.warmup_epochs >= epochs:
        raise InputError(
            f"optim.warmup_epochs={optim.warmup_epochs}: expected 0 or more and below the "
            f"{epochs:g} epochs of the run"
        )
    peak, factor = optim.base_lr * batch_size / 256, optim.step_factor
    warmup = optim.warmup_epochs * steps_per_epoch
    drops = jnp.array([epoch * steps_per_epoch for epoch in optim.step_epochs], jnp.float32)

    def cosine(t: jax.Array) -> jax.Array:
        return 0.5 * (1 + jnp.cos(math.pi * (t - warmup) / (total_steps - warmup)))

    def steps(t: jax.Array) -> jax.Array:
        return jnp.prod(jnp.where(t >= drops, factor, 1.0))

    shape = {"cosine": cosine, "step": steps}[optim.schedule]

    def schedule(step: jax.Array) -> jax.Array:
        t = jnp.minimum(jnp.asarray(step, jnp.float32), total_steps)
        # Below one step of warmup only t = 0 is in it, where the divisor has no effect.
        return peak * jnp.where(t < warmup, t / max(warmup, 1.0), shape(t))

    return schedule
