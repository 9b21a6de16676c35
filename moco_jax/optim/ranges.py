"""What the optimizers' options may be."""

import math

from moco_jax.config import OPTIMIZERS, ConfigDict, choose
from moco_jax.errors import InputError


def check(optim: ConfigDict) -> None:
    """Raises InputError that names the first bad value of an optimizer, if there is one."""
    choose("optim.name", optim.name, OPTIMIZERS)
    for name in ("weight_decay", "clip_norm"):
        require(optim, name, 0 <= optim[name] < math.inf, "finite and not negative")
    for name in ("momentum", "b1", "b2"):
        require(optim, name, 0 <= optim[name] < 1, "0 or more and below 1")
    require(optim, "layer_decay", 0 < optim.layer_decay <= 1, "above 0 and at most 1")
    for name in ("eps", "trust_coefficient"):
        require(optim, name, 0 < optim[name] < math.inf, "finite and positive")


def require(optim: ConfigDict, name: str, ok: bool, expected: str) -> None:
    """Raises InputError unless `ok`."""
    if not ok:
        raise InputError(f"optim.{name}={optim[name]} must be {expected}")
