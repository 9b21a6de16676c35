"""A checkpoint in a bucket, brought to this machine to be read."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from moco_jax import bucket, files, metrics
from moco_jax.bucket import BucketPath
from moco_jax.checkpoint.bucketed import UNFINISHED, steps
from moco_jax.convert.formats.ours import IMPORTED
from moco_jax.errors import CheckpointError, MissingError


@contextlib.contextmanager
def fetched(path: str | os.PathLike | BucketPath) -> Iterator[pathlib.Path]:
    """Within the context, what `convert.read` needs of a file, folder, workdir or step.

    Of a workdir that is its newest step. What is not in a bucket is given back as it is.

    Raises:
      MissingError: there is nothing at the address.
      CheckpointError: a workdir without a complete checkpoint, or an incomplete one.
      StorageError: the bucket does not answer.
    """
    source = bucket.place("path", path)
    if not isinstance(source, BucketPath):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="moco_jax-") as folder:
        yield files.retrying(
            f"reading {source}", lambda: _fetch(source, pathlib.Path(folder)), files.is_trouble
        )


def _fetch(source: BucketPath, folder: pathlib.Path) -> pathlib.Path:
    if not source.exists():
        raise MissingError(f"there is no file or folder {source}")
    target = folder / source.name
    if (source / "state").is_dir():
        return _step(source, folder / source.parent.parent.name)
    if not (source / "checkpoints").is_dir():
        source.download(target)
        return target
    there = steps(source / "checkpoints")
    if not there:
        raise CheckpointError(f"there is no checkpoint in {source}")
    _step(source / "checkpoints" / str(there[-1]), target)
    return target


def _step(step: BucketPath, workdir: pathlib.Path) -> pathlib.Path:
    """One step, and what lies beside the checkpoints and belongs to it."""
    if (step / UNFINISHED).exists():
        raise CheckpointError(f"{step} is not complete: it was being written or removed")
    target = workdir / "checkpoints" / step.name
    step.download(target)
    for name in (metrics.FILE, IMPORTED):
        with contextlib.suppress(FileNotFoundError):
            (step.parent.parent / name).download(workdir / name)
    return target
