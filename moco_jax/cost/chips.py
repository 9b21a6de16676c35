"""What the makers' data sheets say of accelerators: the one table of limits."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from moco_jax.config import choose
from moco_jax.errors import InputError
from moco_jax.extras import extra


class Chip(NamedTuple):
    """One accelerator, dense and without sparsity.

    Attributes:
      name: as people call it.
      kind: how JAX's `device_kind` begins.
      operations: per second, of bfloat16 products with float32 sums.
      memory: bytes.
      bandwidth: bytes per second, of that memory.
      link: bytes per second that leave the chip over all its links to others of its kind.
      clock: Hz, of the matrix units; 0: the compiler states no cycles.
      options: of JAX's topology, so that a device is a chip with both its cores.
      source: of the figures.
    """

    name: str
    kind: str
    operations: float
    memory: float
    bandwidth: float
    link: float
    clock: float
    options: dict[str, str]
    source: str


_BOTH = {"chip_config_name": "megacore"}
_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"

# A TPU's clock is its peak over the operations of a cycle: 2 * 128 * 128 in each of eight matrix
# units (v4, v5p) or four (v5e), 2 * 256 * 256 in each of four (v6e). TPU memory is in GiB; links
# have 50 GB/s each way in v4 (six) and v5e (four), twice that in v5p and v6e; NVLink's bandwidth,
# stated for both directions, is halved. Longer kinds stand before shorter ones.
CHIPS = (
    Chip("v4", "TPU v4", 275e12, 32 * 2**30, 1200e9, 300e9, 1.05e9, _BOTH, _CLOUD + "v4"),
    Chip("v5e", "TPU v5 lite", 197e12, 16 * 2**30, 819e9, 200e9, 1.5e9, {}, _CLOUD + "v5e"),
    Chip("v5p", "TPU v5", 459e12, 95 * 2**30, 2765e9, 600e9, 1.75e9, _BOTH, _CLOUD + "v5p"),
    Chip("v6e", "TPU v6", 918e12, 32 * 2**30, 1638e9, 400e9, 1.75e9, {}, _CLOUD + "v6e"),
    Chip("H200", "NVIDIA H200", 989e12, 141e9, 4.8e12, 450e9, 0, {}, _NVIDIA + "h200"),
    Chip("H100", "NVIDIA H100", 989e12, 80e9, 3.35e12, 450e9, 0, {}, _NVIDIA + "h100"),
    Chip("A100", "NVIDIA A100", 312e12, 80e9, 2.04e12, 300e9, 0, {}, _NVIDIA + "a100"),
)
# The compiler shall ask neither for a cloud's machine nor for a TPU.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v4-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
TOPOLOGIES = tuple(chip.name for chip in CHIPS if chip.clock)


def chip_of(device: jax.Device) -> Chip | None:
    """The data sheet of a device; None where there is none here."""
    return next((chip for chip in CHIPS if device.device_kind.startswith(chip.kind)), None)


def absent_devices(topology: str) -> Sequence[jax.Device]:
    """The chips of a TPU slice that need not be there, to compile for.

    Args:
      topology: generation and shape, 'v4:4x4x8' or 'v5e:4x8'.

    Raises:
      InputError: no such slice, or the compiler is not installed.
    """
    chip, sides = _slice(topology)
    # A host has 4 chips, 2 x 2, unless the slice is smaller.
    host = (min(2, sides[0]), min(2, sides[1]), 1)
    for variable, value in _ALONE.items():
        os.environ.setdefault(variable, value)
    with extra("tpu", f"--topology={topology}"):
        import libtpu  # noqa: F401
    try:
        found = topologies.get_topology_desc(
            topology, platform="tpu", chips_per_host_bounds=host, **chip.options
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology={topology}: {str(error).splitlines()[0]}") from error
    return found.devices


def _slice(topology: str) -> tuple[Chip, list[int]]:
    """The chip and the sides of a slice."""
    name, _, shape = topology.partition(":")
    choose("the generation in --topology", name, TOPOLOGIES)
    sides, axes = shape.split("x"), 2 if name in ("v5e", "v6e") else 3
    if not all(side.isdigit() and int(side) for side in sides) or len(sides) != axes:
        raise InputError(
            f"--topology={topology}: expected {name}:{'x'.join('448'[-axes:])} or the like, chips "
            f"along each of {axes} axes"
        )
    return next(chip for chip in CHIPS if chip.name == name), list(map(int, sides))
