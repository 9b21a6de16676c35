"""Copies of what lies in a bucket, for libraries that read files: made once, kept in the caches."""

import concurrent.futures
import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from moco_jax import places
from moco_jax.bucket import BucketPath
from moco_jax.data import blobs, packed
from moco_jax.data.blobs import Blob
from moco_jax.errors import InputError
from moco_jax.files import is_trouble, read_json, replace, retrying

log = logging.getLogger(__name__)

_AT_A_TIME = 8  # files
_LIST = "copied.json"  # name -> [size, stamp] of each file that is there


def names_in(spec: str, address: str) -> dict[str, Blob]:
    """All files of a bucket's folder by their names below it; a single file by its own name.

    Args:
      spec: the source, for messages.
      address: of a folder or a file.

    Raises:
      MissingError: there is nothing.
      StorageError: the bucket does not answer.
    """
    root = _root(spec, address)
    found = blobs.find(spec, root, "")
    if [blob.path for blob in found] == [root]:
        return {blobs.name(root): found[0]}
    return {blob.path.removeprefix(f"{root}/"): blob for blob in found}


def local_copy(
    spec: str, address: str, cache_dir: str, wanted: Callable[[str], bool] = bool
) -> pathlib.Path:
    """A folder with the files of a bucket's folder, or a file; only what is new is copied.

    Args:
      spec: as for `names_in`, and so is `address`.
      address: of a folder or a file.
      cache_dir: where the copy is kept; see `packed.cache_folder`.
      wanted: of the names; which are copied.

    Raises:
      MissingError: there is nothing.
      InputError: the machine has no room for it.
      StorageError: the bucket, or the disk, fails again and again.
    """
    there = {name: blob for name, blob in names_in(spec, address).items() if wanted(name)}
    home = packed.cache_file(cache_dir, blobs.name(address.rstrip("/")), address, "copy")
    folder = home / "files"
    folder.mkdir(parents=True, exist_ok=True)
    known = read_json(home / _LIST, dict)
    for name in set(known) - set(there):
        (folder / name).unlink(missing_ok=True)
        del known[name]
    new = {name: blob for name, blob in there.items() if not _copied(folder, name, blob, known)}
    if new:
        _check_room(spec, home, new)
        _copy(spec, folder, new, known)
    single = [blob.path for blob in there.values()] == [_root(spec, address)]
    return folder / min(there) if single else folder


def _root(spec: str, address: str) -> str:
    """An address as those of what lies inside begin."""
    return "{}://{}".format(*places.split(spec, address))


def _copied(folder: pathlib.Path, name: str, blob: Blob, known: Mapping[str, Any]) -> bool:
    file = folder / name
    right = known.get(name) == [blob.size, blob.stamp]
    return right and file.is_file() and file.stat().st_size == blob.size


def _check_room(spec: str, home: pathlib.Path, new: Mapping[str, Blob]) -> None:
    needed, free = sum(blob.size for blob in new.values()), shutil.disk_usage(home).free
    log.info("Copying %d files, %.1f GB, of %s to %s", len(new), needed / 1e9, spec, home)
    if needed > free:
        raise InputError(
            f"{spec}: to be read, its {needed / 1e9:.1f} GB are copied to {home}, which has room "
            f"for {free / 1e9:.1f} GB; expected data.cache_dir where there is more, or tar shards, "
            "which are read where they are: wds:"
        )


def _copy(spec: str, folder: pathlib.Path, new: Mapping[str, Blob], known: dict[str, Any]) -> None:
    """Copies files, and keeps a list of those that are whole."""
    with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME) as pool:
        download = functools.partial(_download, folder)
        for name, blob in zip(new, pool.map(download, new, new.values())):
            known[name] = [blob.size, blob.stamp]
            replace(folder.parent / _LIST, json.dumps(known))


def _download(folder: pathlib.Path, name: str, blob: Blob) -> Blob:
    file = folder / name
    part = packed.part_of(file)

    def attempt() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        BucketPath(blob.path).download(part)
        part.replace(file)

    retrying(f"copying {blob.path}", attempt, is_trouble)
    return blob
