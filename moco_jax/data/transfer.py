"""From a host's batches to global arrays on the devices, and back.

B global batch, b this process's share of it, N images of the source
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from moco_jax.data.loader import Batch
from moco_jax.data.source import ArraySource, Source


def put(sharding: Sharding, batch: Batch) -> Batch:
    """Sends this process's rows of a batch; returns when they have been read.

    Args:
      sharding: Of the first axis, over the devices of all processes, each with its rows in turn.
      batch: Arrays (b, ...) on the host.

    Returns:
      Arrays (B, ...).
    """
    # The CPU backend may keep the host's memory, which will be overwritten, for the array's own.
    keeps = any(device.platform == "cpu" for device in sharding.device_set)

    def send(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * jax.process_count(), *rows.shape[1:])
        rows = rows.copy() if keeps else rows
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return jax.block_until_ready(jax.tree.map(send, batch))


def fetch(arrays: Any) -> Any:
    """A tree of global arrays in host memory, whole on every process, all of which must call."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def options(source: Source, sharding: Sharding, resident_gb: float) -> dict[str, Any]:
    """What `pipeline`'s streams need to give this process's share of global batches.

    Args:
      source: whose batches they are.
      sharding: as for `put`.
      resident_gb: size up to which an array of images lies on each device.
    """
    resident = is_resident(source, resident_gb)
    send = functools.partial(put_resident, source) if resident else put
    return {
        "host": jax.process_index(),
        "hosts": jax.process_count(),
        "put": functools.partial(send, sharding),
        "pixels": not resident,
    }


def is_resident(source: Source, limit_gb: float) -> bool:
    """Whether a source is an array that may lie on every device.

    Args:
      source: images.
      limit_gb: `data.resident_gb`.
    """
    return isinstance(source, ArraySource) and source.images.nbytes <= limit_gb * 1e9


@functools.lru_cache(maxsize=3)  # training, held-out and test images, each sent once
def _resident(source: ArraySource, sharding: Sharding) -> dict[jax.Device, jax.Array]:
    """The images of a source, (N, H, W, C), on each device of this process."""
    return {d: jax.device_put(source.images, d) for d in sharding.addressable_devices}


@jax.jit
def _take(images: jax.Array, index: jax.Array) -> jax.Array:
    return images[index]


def put_resident(source: ArraySource, sharding: Sharding, batch: Batch) -> Batch:
    """Sends a batch without its images or features: they are taken from the array on the devices.

    Each device takes its own rows, in a computation of its own: the thread that prefetches may
    start it at any time without regard to what other processes do.

    Args:
      source: Its images are sent once and stay.
      sharding: As for `put`.
      batch: `index` and other numbers, int32 (b,).

    Returns:
      The batch with `image`, uint8 (B, H, W, C), or `features`, float32 (B, F).
    """
    images, batch = _resident(source, sharding), put(sharding, batch)
    index = batch["index"]
    parts = [_take(images[rows.device], rows.data) for rows in index.addressable_shards]
    shape = (len(index), *source.images.shape[1:])
    return batch | {source.entry: jax.make_array_from_single_device_arrays(shape, sharding, parts)}
