"""Checkpoints in a bucket: written by Orbax on this machine, then sent object by object.

The folder of a step is as in a file system, so that it may be copied there or from there. As long
as it is written or removed, it holds one object more: a step with it is none. Orbax 0.12 itself
knows gs:// but not s3://, and has a client of its own for each part of the work, each with its own
variables and patience; so both go one way here.
"""

import pathlib
import tempfile
import threading
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils

from moco_jax import bucket, files
from moco_jax.bucket import BucketPath, Place
from moco_jax.checkpoint import (
    Checkpoints,
    Exchange,
    Tree,
    alone,
    checksums_of,
    log,
    may_pass,
    named,
)
from moco_jax.checkpoint.failures import Failures
from moco_jax.checkpoint.sealed import seal
from moco_jax.config import ConfigDict
from moco_jax.errors import StorageError

UNFINISHED = "unfinished"  # the first object of a step that is written, the last to go


def open_checkpoints(
    workdir: Place, options: ConfigDict, exchange: Exchange = alone
) -> Checkpoints:
    """The checkpoints of a run, in a file system or in a bucket; see `Checkpoints`."""
    kind = BucketCheckpoints if isinstance(workdir, BucketPath) else Checkpoints
    return kind(workdir, options, exchange)


def steps(directory: BucketPath) -> list[int]:
    """The positions of the complete checkpoints in `workdir/checkpoints`, oldest first."""
    complete, unfinished = _steps(directory)
    return sorted(complete - unfinished)


def _steps(directory: BucketPath) -> tuple[set[int], set[int]]:
    """Positions of which there is something, and those of them that are not complete."""
    found = [name.split("/") for name in directory.walk()]
    found = [(int(first), rest) for first, *rest in found if first.isdigit()]
    return {n for n, _ in found}, {n for n, rest in found if rest == [UNFINISHED]}


def _clear(step: BucketPath) -> None:
    """Removes all of a step but the mark that it is not complete."""
    files.write(step / UNFINISHED, b"")
    for name in step.walk():
        if name != UNFINISHED:
            (step / name).unlink(missing_ok=True)


def _complete(step: BucketPath) -> None:
    """From here on the step counts, or there is nothing left of it."""
    (step / UNFINISHED).unlink(missing_ok=True)


class BucketCheckpoints(Checkpoints):
    """As `Checkpoints`; process 0 writes, from the memory of its machine, in a thread.

    Arrays that lie on several processes are brought together, one after the other.
    """

    def __init__(self, workdir: BucketPath, options: ConfigDict, exchange: Exchange = alone):
        self.directory = workdir / "checkpoints"
        self._options, self._exchange = options, exchange
        self._failures, self._known = Failures(), set[int]()
        self._thread = threading.Thread(target=lambda: None)
        self._thread.start()
        if jax.process_index() == 0:
            self._retrying("opening", self._remove_unfinished)

    def save(self, position: int, state: Tree, config: dict[str, Any], wait: bool = False) -> None:
        """As in `Checkpoints`."""
        failed = self._noticed()
        if not failed and position in self._known:
            return self.wait() if wait else None
        leaves = named(state)
        meta = seal({"position": position, "config": config, "checksums": checksums_of(leaves)})
        self._thread.join()  # one copy of the state on the host is enough
        arrays = _on_host(leaves)
        self._known.add(position)
        if jax.process_index() == 0:
            self._thread = threading.Thread(
                target=self._send, args=(position, arrays, meta), name="save", daemon=True
            )
            self._thread.start()
        if failed or wait:
            self.wait()
        if failed:
            log.warning("Checkpoint %d is saved", position)

    def wait(self) -> None:
        """Blocks until everything saved is in the bucket; raises what went wrong.

        Raises:
          StorageError: a save failed here or in another process.
        """
        self._thread.join()
        said = self._exchange(str(self._failures.last or ""), "a checkpoint to be saved")
        if self._failures.last:
            raise self._failures.last
        if any(said):
            raise StorageError(next(filter(None, said)))

    def saved(self) -> list[int]:
        """The positions of the complete checkpoints, oldest first."""
        return self._retrying("listing", lambda: steps(self.directory))

    def close(self) -> None:
        """Waits."""
        self._failures.close()
        self._thread.join()

    def _positions(self) -> list[int]:
        found = self.saved() if jax.process_index() == 0 else []
        self._known = set(self._exchange(found, "all to list the checkpoints")[0])
        return sorted(self._known, reverse=True)

    def _read_own(self, position: int, wanted: dict[str, Any]) -> Any:
        with bucket.fetched(self.directory / str(position)) as step:
            return self._read(step, wanted)

    def _forget(self, position: int) -> None:
        self._known.discard(position)

    def _retrying(self, what: str, action: Any) -> Any:
        return files.retrying(f"{what} {self.directory}", action, files.is_trouble)

    def _remove_unfinished(self) -> None:
        """What a killed writer has left, for its room and its money."""
        for position in _steps(self.directory)[1]:
            self._remove(position)

    def _remove(self, position: int) -> None:
        step = self.directory / str(position)
        _clear(step)
        _complete(step)

    def _send(self, position: int, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="moco_jax-") as folder:
                local = pathlib.Path(folder) / str(position)
                files.retrying(f"writing {local}", lambda: _write(local, arrays, meta), may_pass)
                self._upload(local)
            self._failures.last = None
        except BaseException as error:
            self._failures.last = error
            return
        try:
            self._prune()
        except OSError as error:
            log.warning("Old checkpoints in %s are removed later: %s", self.directory, error)

    def _upload(self, local: pathlib.Path) -> None:
        step = self.directory / local.name
        self._retrying("preparing", lambda: _clear(step))
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            target = step / file.relative_to(local).as_posix()
            files.retrying(f"writing {target}", lambda: target.upload(file))  # noqa: B023
        self._retrying("completing", lambda: _complete(step))

    def _prune(self) -> None:
        """Removes old checkpoints."""
        there, every = steps(self.directory), self._options.keep_every_steps
        keep = set(there[-max(self._options.keep_last, 1) :])
        for position in there:
            if position not in keep and not (every and position % every == 0):
                self._remove(position)


def _on_host(leaves: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Copies of all arrays in process 0; they may be donated afterwards."""
    arrays = {}
    for name, leaf in leaves.items():
        whole = leaf.is_fully_addressable or leaf.is_fully_replicated
        array = None if whole else multihost_utils.process_allgather(leaf, tiled=True)
        if jax.process_index() == 0:
            arrays[name] = np.array(leaf) if whole else array
    return arrays


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """A checkpoint on this machine, by this process alone."""
    alone_ = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="bucket"
    )
    handlers = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone_),
        "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone_),
    }
    composite = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone_), **handlers
    )
    tree = traverse_util.unflatten_dict(arrays, sep="/")
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    with ocp.Checkpointer(composite, multiprocessing_options=alone_) as writer:
        writer.save(path, args=args, force=True)
