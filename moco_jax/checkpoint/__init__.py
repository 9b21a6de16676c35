"""Checkpoints: Orbax behind one door.

A checkpoint is the TrainState as nested dicts of arrays by name (`params/backbone/...`), so that
it can be read without our classes, and beside it JSON with the run's config, a checksum per array
and one of the JSON itself. Orbax restores a flipped bit without a word; the checksums notice it.
"""

import itertools
import logging
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from moco_jax import files
from moco_jax.bucket import Place
from moco_jax.checkpoint.failures import Failures
from moco_jax.checkpoint.reading import checksums_of, compare, named, read, read_config
from moco_jax.checkpoint.sealed import read_meta, seal
from moco_jax.config import ConfigDict
from moco_jax.errors import CheckpointError, StorageError

__all__ = [
    "Checkpoints",
    "Exchange",
    "alone",
    "checksums_of",
    "compare",
    "named",
    "read",
    "read_config",
]

log = logging.getLogger(__name__)

Tree = Any
# What each process says -> what all said, by process.
Exchange = Callable[[Any, str], list[Any]]
_LATER = (2.0, 5.0, 10.0, 20.0)  # seconds until a file that only some processes see is read again


def alone(value: Any, what: str = "") -> list[Any]:
    """The exchange of a process of its own: `value` alone, whatever it is (`what`)."""
    del what
    return [value]


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<position>`.

    Saving is asynchronous and atomic: a directory appears under its final name when it is
    complete. Restoring verifies every array. Process 0 decides which checkpoint is taken, and what
    one process cannot read no process takes. A context manager, which waits for what is being saved
    unless the storage has failed.
    """

    def __init__(self, workdir: pathlib.Path, options: ConfigDict, exchange: Exchange = alone):
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._options, self._exchange = options, exchange
        self._failures = Failures()
        self.manager = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, StorageError):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        """Orbax's manager; what an earlier one has left unfinished is removed, for its room."""
        if jax.process_index() == 0:
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
        policies = [checkpoint_managers.LatestN(max(self._options.keep_last, 1))]
        if self._options.keep_every_steps:
            policies.append(checkpoint_managers.EveryNSteps(self._options.keep_every_steps))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            # Else a directory that cannot be made is known after 5 minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        make = lambda: ocp.CheckpointManager(  # noqa: E731
            self.directory, item_handlers=handlers, options=options
        )
        return files.retrying(f"opening {self.directory}", make)

    def save(self, position: int, state: Tree, config: dict[str, Any], wait: bool = False) -> None:
        """Starts saving `state` under `position`; the state may be donated when this returns.

        Args:
          position: of the run.
          state: any pytree of arrays.
          config: as JSON.
          wait: return when it is on disk; else a failure shows in `failed`.

        Raises:
          StorageError: it, or the one before, could not be saved, although it was tried again.
        """
        failed = self._noticed()
        if not failed and position in self.manager.all_steps():
            return self.wait() if wait else None
        leaves = named(state)
        meta = seal({"position": position, "config": config, "checksums": checksums_of(leaves)})
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(traverse_util.unflatten_dict(leaves, sep="/")),
            meta=ocp.args.JsonSave(meta),
        )
        if not failed:
            try:
                self.manager.save(position, args=args, force=True)
                return self.wait() if wait else None
            except Exception as error:
                if not may_pass(error):
                    raise
                self._failures.last = error
                self._noticed()
        files.retrying(
            f"saving checkpoint {position} in {self.directory}",
            lambda: self._save_again(position, args), may_pass,
        )  # fmt: skip
        log.warning("Checkpoint %d is saved", position)

    def _save_again(self, position: int, args: ocp.args.CheckpointArgs) -> None:
        """Saves and waits, with a new manager: Orbax's never recovers from an error."""
        self.manager = self._open()
        if position in self.manager.all_steps():
            return
        self.manager.save(position, args=args, force=True)
        self.wait()

    def failed(self) -> bool:
        """Whether what was being saved could not be: the next `save` will try until it succeeds.

        Raises:
          StorageError: it failed in one of several processes, which cannot try again alone.
        """
        if self._failures.last and jax.process_count() > 1:
            raise StorageError(f"{self._problem()}; the same command resumes.")
        return self._failures.last is not None

    def _noticed(self) -> bool:
        if failed := self.failed():
            log.error("%s", self._problem())
        return failed

    def _problem(self) -> str:
        return f"Saving a checkpoint in {self.directory} failed: {files.cause(self._failures.last)}"

    def wait(self) -> None:
        """Blocks until everything saved is on disk; raises what went wrong in the background."""
        self.manager.wait_until_finished()
        self._failures.last = None

    def newest_config(self) -> dict[str, Any] | None:
        """The config stored with the newest readable checkpoint; None where there is none."""
        for position in self._positions():
            meta, problem = self._attempt(lambda at=position: read_meta(self.directory / str(at)))
            if not any(self._exchange(problem, "all to read a checkpoint's config")):
                return meta["config"]
            log.error("Checkpoint %d has no readable config: %s", position, problem)
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
          StorageError: the machine cannot read them.
        """
        damaged: dict[int, str] = {}
        for position in self._positions():
            leaves, problem = self._read_together(position, named(like))
            if problem:
                damaged[position] = problem
                log.error("CHECKPOINT %d IS DAMAGED (%s)", position, problem)
                continue
            for bad in damaged:
                log.error("Checkpoint %d was moved to %s", bad, self._set_aside(bad))
            return jax.tree.unflatten(
                jax.tree.structure(like), [leaves[name] for name in named(like)]
            )
        if damaged:
            raise CheckpointError(
                f"No checkpoint in {self.directory} can be read: {damaged}. "
                f"Start anew in another workdir."
            )
        return None

    def saved(self) -> list[int]:
        """The positions of the complete checkpoints, oldest first."""
        return sorted(int(p.name) for p in self.directory.glob("*") if p.name.isdigit())

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        self._failures.close()
        self.manager.close()

    def _positions(self) -> list[int]:
        """Of the checkpoints that process 0 sees, the newest first."""
        steps = [int(step) for step in self.manager.all_steps()]
        return sorted(self._exchange(steps, "all to list the checkpoints")[0], reverse=True)

    def _attempt(self, action: Callable[[], Any]) -> tuple[Any, str]:
        """What an action gives, or None and what went wrong; the machine's trouble is raised."""
        try:
            return files.retrying(f"reading {self.directory}", action, files.is_trouble), ""
        except (CheckpointError, StorageError):
            raise
        except Exception as error:  # Orbax raises many kinds
            return None, (str(error) or repr(error)).splitlines()[0]

    def _read_together(
        self, position: int, wanted: dict[str, Any]
    ) -> tuple[dict[str, jax.Array] | None, str]:
        """A checkpoint's arrays, or what is wrong with it, the same for all processes."""
        for delay in (*_LATER, None):
            found, problem = self._attempt(lambda: self._read_own(position, wanted))
            problems = self._exchange(problem, f"all to read checkpoint {position}")
            if not any(problems) or all(problems) or delay is None:
                break
            time.sleep(delay)  # some see it: to the others a file system may show it later
        if any(problems):
            index = next(i for i, problem in enumerate(problems) if problem)
            others = f"for process {index}: " if len(problems) > 1 else ""
            return None, others + problems[index]
        leaves, meta = found
        sums = checksums_of(leaves)  # by all processes together
        wrong = [name for name, value in sums.items() if value != meta["checksums"].get(name)]
        named_ = ", ".join(wrong[:3])
        return leaves, f"wrong checksum of {named_} ({len(wrong)} arrays)" if wrong else ""

    def _read_own(
        self, position: int, wanted: dict[str, Any]
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        return self._read(self.directory / str(position), wanted)

    def _read(
        self, step: pathlib.Path, wanted: dict[str, Any]
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Arrays and JSON of a checkpoint, as this process sees it, without any other's help."""
        meta, reader = read_meta(step), ocp.StandardCheckpointHandler()
        saved = reader.metadata(step / "state")
        lines = compare(traverse_util.flatten_dict(dict(saved.items()), sep="/"), wanted)
        if lines:
            more = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
            raise CheckpointError(
                f"Checkpoint {step.name} in {self.directory} is of another model or optimizer:\n"
                + "\n".join(lines[:20] + more)
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
        )
        args = ocp.args.StandardRestore(traverse_util.unflatten_dict(abstract, sep="/"))
        restored = reader.restore(step / "state", args=args)
        return traverse_util.flatten_dict(restored, sep="/"), meta

    def _set_aside(self, position: int) -> Place:
        source, aside = self.directory / str(position), self.directory / f"damaged-{position}"
        for n in itertools.count(1):
            if not aside.exists():
                break
            aside = self.directory / f"damaged-{position}-{n}"
        if jax.process_index() == 0:
            files.retrying(f"renaming {source}", lambda: source.rename(aside))
        (name, *_) = self._exchange(aside.name, "a damaged checkpoint to be set aside")
        self._forget(position)
        return self.directory / name

    def _forget(self, position: int) -> None:
        """Takes notice that a checkpoint has been renamed."""
        self.manager.reload()


def may_pass(error: BaseException) -> bool:
    """Whether writing a checkpoint may succeed when it is tried again."""
    return isinstance(error, OSError) or files.is_trouble(error)
