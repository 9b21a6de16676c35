"""Devices: which backend runs, the mesh over its devices, and how arrays lie on it."""

import logging
import shutil
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moco_jax.config import BACKENDS, choose

log = logging.getLogger(__name__)

_PLATFORM = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRA = {"gpu": "cuda", "tpu": "tpu"}


def select_backend(backend: str) -> None:
    """Makes JAX run on `backend` or fails; 'auto' takes what JAX finds.

    Raises:
      ValueError: the name is unknown.
      RuntimeError: the backend is not there. A run never falls back to the CPU unasked.
    """
    choose("backend", backend, BACKENDS)
    if backend == "auto":
        if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
            log.warning(
                "This machine seems to have an NVIDIA GPU, but JAX runs on the CPU: "
                "install moco_jax[cuda] to use it, or set --config.backend=cpu if that is meant."
            )
        return
    try:
        jax.config.update("jax_platforms", _PLATFORM[backend])
        found = jax.default_backend()
    except RuntimeError as error:
        found = f"none ({error})"
    if found != backend:
        hint = f" Install moco_jax[{_EXTRA[backend]}]?" if backend in _EXTRA else ""
        raise RuntimeError(f"backend={backend!r} was asked for, but JAX found {found}.{hint}")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis 'data' over all devices, or those given.

    The devices of a process stand together: it reads consecutive rows of each batch.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: the TrainState."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError, naming the nearest valid sizes, unless the devices divide the batch."""
    d = mesh.devices.size
    if batch_size < 1 or batch_size % d:
        below = batch_size // d * d
        near = f"{below} or {below + d}" if below > 0 else f"{d}"
        raise ValueError(
            f"{name}={batch_size} must be a positive multiple of the {d} devices; nearest: {near}"
        )
