"""Devices: which backend runs, the mesh over its devices, and how arrays lie on it."""

import dataclasses
import functools
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moco_jax.config import BACKENDS, choose
from moco_jax.errors import BackendError, InputError
from moco_jax.extras import installation

log = logging.getLogger(__name__)

AXES = ("data", "fsdp")  # of the mesh; both split the batch
MIN_SPLIT = 2**14  # elements of a parameter, below which gathering costs more than it saves
Tree = Any

_PLATFORM = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRA = {"gpu": "cuda", "tpu": "tpu"}


def select_backend(backend: str) -> None:
    """Makes JAX run on `backend` or fails; 'auto' takes what JAX finds.

    Raises:
      InputError: the name is unknown.
      BackendError: the backend is not there. A run never falls back to the CPU unasked.
    """
    choose("backend", backend, BACKENDS)
    if backend == "auto":
        if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
            log.warning(
                "This machine seems to have an NVIDIA GPU, but JAX runs on the CPU: "
                "%s to use it, or set --config.backend=cpu if that is meant.",
                installation("cuda"),
            )
        return
    try:
        jax.config.update("jax_platforms", _PLATFORM[backend])
        found = jax.default_backend()
    except AssertionError:  # a platform that no installed plugin knows: JAX's way to say so
        found = "none of that name"
    except RuntimeError as error:
        found = f"none ({error})"
    if found != backend:
        hint = f" {installation(_EXTRA[backend])}?" if backend in _EXTRA else ""
        raise BackendError(f"backend={backend!r} was asked for, but JAX found {found}.{hint}")


def use_compilation_cache(directory: str) -> None:
    """Keeps compiled programs in a directory, which all hosts may share; "" changes nothing.

    Process 0 writes it, all read it. To be called before anything is compiled.
    """
    if directory:
        jax.config.update("jax_compilation_cache_dir", directory)


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over all devices, or those given: axis 'data', and 'fsdp' of `fsdp` devices.

    Both split the batch; 'fsdp' splits the parameters too. The devices of a process stand
    together: it reads consecutive rows of each batch.

    Raises:
      InputError: `fsdp` does not divide the devices.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise InputError(
            f"mesh.fsdp={fsdp} must divide the {count} devices; nearest: {_nearest(fsdp, count)}"
        )
    return Mesh(np.array(devices).reshape(-1, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array of the state lies on the mesh.

    Attributes:
      kind: 'parameters': split over 'fsdp' where they are large; 'whole': on every device;
        'rows': by its first axis over all devices; 'groups': BatchNorm statistics of groups
        (G, C), by rows where the devices divide G, as each device renews its own groups'.
      option: of 'rows', the option that decides their number, for an error.
    """

    kind: str
    option: str = ""


PARAMETERS, WHOLE, GROUPS = Layout("parameters"), Layout("whole"), Layout("groups")


def state_shardings(mesh: Mesh, state: Tree, layout: Tree) -> Tree:
    """How each array of a state lies on the mesh.

    Args:
      mesh: of `make_mesh`.
      state: arrays or their shapes.
      layout: a tree of `Layout` that `state` extends.

    Raises:
      InputError: an array is to be split by rows, and the devices do not divide them.
    """

    def sharding(how: Layout, x: jax.Array) -> NamedSharding:
        divides = x.ndim > 0 and x.shape[0] % mesh.size == 0
        if how.kind == "rows" and not divides:
            raise InputError(
                f"{how.option}={x.shape[0]} must be a multiple of the {mesh.size} devices that its "
                f"rows are split over; nearest: {_multiples(x.shape[0], mesh.size)}"
            )
        if how.kind == "parameters":
            return NamedSharding(mesh, parameter_spec(x.shape, mesh.shape["fsdp"]))
        return batched(mesh) if how.kind != "whole" and divides else replicated(mesh)

    return jax.tree.map(
        lambda how, part: jax.tree.map(functools.partial(sharding, how), part), layout, state
    )


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """A parameter's: its largest axis that `fsdp` divides is split (of equal ones the last).

    Args:
      shape: of the parameter.
      fsdp: devices of a group.
    """
    axes = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not axes or math.prod(shape) < MIN_SPLIT:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(None,) * largest, "fsdp")


def inside(mesh: Mesh, f: Callable) -> Callable:
    """`f`, to be jitted: while it is traced, the functions below know the mesh."""

    @functools.wraps(f)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return f(*args)

    return traced


def whole(tree: Tree) -> Tree:
    """Every device gets all of each array. Without a mesh, nothing happens."""
    return jax.tree.map(lambda x: _constrain(x, PartitionSpec()), tree)


def gathered(params: Tree) -> Tree:
    """Parameters for use: whole on every device; their gradients lie as the parameters do."""
    return jax.tree.map(_gathered, params)


def by_rows(f: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """`f(params, rows)` run by each device on its own rows, the first axis of all arrays in `rows`.

    Nothing is sent but the parameters' gradient: it is summed over the devices once, at the end,
    whereas the compiler would do so in every turn of a loop inside `f`.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return f

    def local(params: Tree, rows: Tree) -> Tree:
        return f(jax.tree.map(lambda p: jax.lax.pcast(p, AXES, to="varying"), params), rows)

    spec = PartitionSpec(AXES)
    return jax.shard_map(local, in_specs=(PartitionSpec(), spec), out_specs=spec)


@jax.custom_vjp
def _gathered(x: jax.Array) -> jax.Array:
    return _constrain(x, PartitionSpec())


def _split_gradient(_: None, g: jax.Array) -> tuple[jax.Array]:
    fsdp = jax.sharding.get_abstract_mesh().shape.get("fsdp", 1)
    return (_constrain(g, parameter_spec(g.shape, fsdp)),)


_gathered.defvjp(lambda x: (_gathered(x), None), _split_gradient)


def _constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises InputError, naming the nearest valid sizes, unless the devices divide the batch.

    Args:
      name: of the option, for the error.
      batch_size: images over all devices.
      mesh: of the devices.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(
            f"{name}={batch_size} must be a positive multiple of the {mesh.size} devices; "
            f"nearest: {_multiples(batch_size, mesh.size)}"
        )


def _multiples(value: int, d: int) -> str:
    """The positive multiples of d next to a value."""
    below = value // d * d
    return f"{below} or {below + d}" if below > 0 else f"{d}"


def _nearest(value: int, n: int) -> int:
    """The divisor of n nearest to a value."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - value))


def everywhere(fact: bool) -> bool:
    """Whether something holds in every process; to be asked before all compute together.

    What one process alone sees (a file, an image that cannot be read) must not let it leave a
    computation in which the others wait for it.
    """
    return bool(multihost_utils.process_allgather(np.array(fact)).all())
