"""What lies in one checkpoint: arrays by name, their checksums, its JSON."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from moco_jax import files
from moco_jax.bucket import Place
from moco_jax.checkpoint.sealed import read_meta
from moco_jax.errors import CheckpointError, StorageError
from moco_jax.ops.checksum import tree_checksums

Tree = Any


def read_config(step: Place) -> dict[str, Any]:
    """The config stored with a checkpoint, without its arrays.

    Raises:
      CheckpointError: it is incomplete or damaged.
      StorageError: the machine cannot read it.
    """
    try:
        meta = files.retrying(f"reading {step}", lambda: read_meta(step), files.is_trouble)
        return meta["config"]
    except StorageError:
        raise
    except Exception as error:
        raise CheckpointError(f"Checkpoint {step} cannot be read: {error}") from error


def named(tree: Tree) -> dict[str, Any]:
    """The leaves of any pytree by their '/'-joined path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def compare(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Lines naming what differs in names, shapes or dtypes between two dicts of arrays.

    Args:
      saved: arrays of a checkpoint by name.
      wanted: those of the run.
    """
    lines = [f"  {name}: only in the checkpoint" for name in sorted(saved.keys() - wanted.keys())]
    lines += [f"  {name}: not in the checkpoint" for name in sorted(wanted.keys() - saved.keys())]
    for name in sorted(saved.keys() & wanted.keys()):
        a, b = (f"{np.dtype(x.dtype)}{list(x.shape)}" for x in (saved[name], wanted[name]))
        if a != b:
            lines.append(f"  {name}: {a} in the checkpoint, {b} in this run")
    return lines


def checksums_of(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """The checksum of each array, as 16 hexadecimal digits."""
    sums = {}
    for name, leaf in leaves.items():
        # One at a time: many small programs that all communicate can block simulated devices.
        high, low = jax.device_get(tree_checksums(leaf))
        sums[name] = f"{int(high):08x}{int(low):08x}"
    return sums


def read(step: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """One checkpoint, `workdir/checkpoints/<position>`, without a run to restore it into.

    Returns:
      Its arrays by name, in host memory, and its JSON: position, config, checksums.

    Raises:
      CheckpointError: it is incomplete or damaged.
      StorageError: the machine cannot read it.
    """
    reader = ocp.PyTreeCheckpointHandler()

    def arrays() -> Any:
        tree = reader.metadata(step / "state").tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(step / "state", args=ocp.args.PyTreeRestore(restore_args=on_host))

    try:
        meta = files.retrying(f"reading {step}", lambda: read_meta(step), files.is_trouble)
        restored = files.retrying(f"reading {step}", arrays, files.is_trouble)
    except StorageError:
        raise
    except Exception as error:  # Orbax raises many kinds
        problem = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(f"Checkpoint {step} cannot be read: {problem}") from error
    leaves = traverse_util.flatten_dict(restored, sep="/")
    if gone := meta["checksums"].keys() - leaves.keys():
        raise CheckpointError(f"Checkpoint {step} is damaged: {min(gone)} is gone")
    for name, leaf in leaves.items():  # one after the other: a second copy of all is not needed
        if checksums_of({name: leaf})[name] != meta["checksums"].get(name):
            raise CheckpointError(f"Checkpoint {step} is damaged: wrong checksum of {name}")
    return leaves, meta
