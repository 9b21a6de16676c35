"""Momentum-contrast learning of image representations in JAX: MoCo v1, v2 and v3.

encoder = moco_jax.load("runs/demo")
features = encoder(images)
"""

import pkgutil
from typing import Any

__version__ = "0.1.0"


def load(path: Any, **options: Any) -> Any:
    """An encoder from a checkpoint of any format; see `moco_jax.encoder.load`."""
    return pkgutil.resolve_name("moco_jax.encoder:load")(path, **options)
