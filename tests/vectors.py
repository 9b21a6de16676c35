"""Random unit vectors, and arrays by rows on eight devices."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def unit_vectors(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def on_eight_devices(x):
    return jax.device_put(x, NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data")))
