"""Checkpoints: Orbax behind one door.

A checkpoint is the TrainState as nested dicts of arrays by name (`params/backbone/...`), so that
it can be read without our classes, and beside it JSON with the run's config and a checksum per
array. Orbax restores a flipped bit without a word; the checksums notice it.
"""

import itertools
import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from moco_jax.config import ConfigDict
from moco_jax.errors import CheckpointError
from moco_jax.ops.checksum import tree_checksums

log = logging.getLogger(__name__)

Tree = Any


def named(tree: Tree) -> dict[str, Any]:
    """The leaves of any pytree by their '/'-joined path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def compare(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Lines naming what differs in names, shapes or dtypes between two dicts of arrays."""
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
    """
    reader = ocp.PyTreeCheckpointHandler()
    try:
        meta = json.loads((step / "meta" / "metadata").read_text())
        tree = reader.metadata(step / "state").tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(step / "state", args=ocp.args.PyTreeRestore(restore_args=on_host))
    except Exception as error:  # Orbax raises many kinds
        problem = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(f"Checkpoint {step} cannot be read: {problem}") from error
    leaves = traverse_util.flatten_dict(restored, sep="/")
    for name, leaf in leaves.items():  # one after the other: a second copy of all is not needed
        if checksums_of({name: leaf})[name] != meta["checksums"].get(name):
            raise CheckpointError(f"Checkpoint {step} is damaged: wrong checksum of {name}")
    return leaves, meta


def _any_process(problem: bool) -> bool:
    """Whether any process has a problem: all of them take the same checkpoint."""
    return bool(multihost_utils.process_allgather(np.array(problem)).any())


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<position>`.

    Saving is asynchronous and atomic: a directory appears under its final name when it is
    complete. Restoring verifies every array.
    """

    def __init__(self, workdir: pathlib.Path, options: ConfigDict):
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        policies = [checkpoint_managers.LatestN(max(options.keep_last, 1))]
        if options.keep_every_steps:
            policies.append(checkpoint_managers.EveryNSteps(options.keep_every_steps))
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def save(self, position: int, state: Tree, config: dict[str, Any]) -> None:
        """Starts saving `state` under `position`; the state may be donated when this returns."""
        if position in self.manager.all_steps():
            return
        leaves = named(state)
        meta = {"position": position, "config": config, "checksums": checksums_of(leaves)}
        self.manager.save(
            position,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(traverse_util.unflatten_dict(leaves, sep="/")),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def newest_config(self) -> dict[str, Any] | None:
        """The config stored with the newest readable checkpoint; None where there is none."""
        for position in sorted(self.manager.all_steps(), reverse=True):
            try:
                return self._meta(position)["config"]
            except Exception as error:  # a checkpoint that cannot be read is passed over below
                log.error("Checkpoint %d has no readable config: %s", position, error)
        return None

    def restore(self, like: Tree) -> Tree | None:
        """The newest good checkpoint as a tree like `like`; None when there is none at all.

        A checkpoint that is incomplete or whose checksums differ is passed over, with a loud line;
        once the one before it has proved good, it is set aside under another name, never deleted.

        Args:
          like: arrays or ShapeDtypeStructs with shardings.

        Raises:
          CheckpointError: none of the checkpoints that are there is good, or they belong to
            another model.
        """
        damaged: dict[int, str] = {}
        for position in sorted(self.manager.all_steps(), reverse=True):
            problem = ""
            try:
                restored = self._restore(position, like)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises many kinds
                problem = (str(error) or repr(error)).splitlines()[0]
            if _any_process(bool(problem)):
                damaged[position] = problem or "for another process"
                log.error("CHECKPOINT %d IS DAMAGED (%s)", position, damaged[position])
            else:
                for bad in damaged:
                    log.error("Checkpoint %d was moved to %s", bad, self._set_aside(bad))
                return restored
        if damaged:
            raise CheckpointError(
                f"No checkpoint in {self.directory} can be read: {damaged}. "
                f"Start anew in another workdir."
            )
        return None

    def wait(self) -> None:
        """Blocks until everything saved is on disk; raises what went wrong in the background."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        self.manager.close()

    def _meta(self, position: int) -> dict[str, Any]:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self.manager.restore(position, args=args)["meta"]

    def _restore(self, position: int, like: Tree) -> Tree:
        wanted = named(like)
        meta = self._meta(position)
        saved = self.manager.item_metadata(position)["state"]
        lines = compare(traverse_util.flatten_dict(dict(saved.items()), sep="/"), wanted)
        if lines:
            more = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
            raise CheckpointError(
                f"Checkpoint {position} in {self.directory} is of another model or optimizer:\n"
                + "\n".join(lines[:20] + more)
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
        )
        args = ocp.args.StandardRestore(traverse_util.unflatten_dict(abstract, sep="/"))
        restored = self.manager.restore(position, args=ocp.args.Composite(state=args))["state"]
        leaves = traverse_util.flatten_dict(restored, sep="/")
        wrong = [n for n, s in checksums_of(leaves).items() if s != meta["checksums"].get(n)]
        if wrong:
            raise OSError(f"wrong checksum of {', '.join(wrong[:3])} ({len(wrong)} arrays)")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])

    def _set_aside(self, position: int) -> pathlib.Path:
        source = self.directory / str(position)
        aside = self.directory / f"damaged-{position}"
        for n in itertools.count(1):
            if not aside.exists():
                break
            aside = self.directory / f"damaged-{position}-{n}"
        multihost_utils.sync_global_devices("name of the damaged checkpoint")
        if jax.process_index() == 0:
            shutil.move(source, aside)
        multihost_utils.sync_global_devices("damaged checkpoint set aside")
        self.manager.reload()
        return aside
