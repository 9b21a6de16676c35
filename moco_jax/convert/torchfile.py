"""PyTorch's file formats, read without PyTorch: the zip archive and, before 1.6, the legacy one.

Tensors are views into the mapped file: nothing is read until it is used.
"""

import io
import mmap
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_jax.convert.placeholders import STORAGES, Global, Storage, brief, brief_all
from moco_jax.convert.unpickle import load
from moco_jax.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of the number below
LEGACY_NUMBER, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
CHUNK = 1 << 22  # bytes


def read_zip(path: pathlib.Path) -> Any:
    """The object in a file that torch.save wrote as a zip archive; its checksums are verified.

    Raises:
      CheckpointError: the file is damaged, or not plain tensors.
    """
    mapped = _map(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = _records(archive)
            _verify(archive, len(mapped))
    except CheckpointError:
        raise
    except Exception as error:  # garbage makes zipfile raise many kinds
        raise CheckpointError(f"the zip archive is damaged: {error}") from error
    if "byteorder" in records and bytes(_content(mapped, records["byteorder"])) != b"little":
        raise CheckpointError("the numbers in the file are not little-endian")
    storages: dict[str, Storage] = {}

    def find(dtype: np.dtype, key: str, size: int) -> Storage:
        if key not in storages:
            record = records.get(f"data/{key}")
            if record is None or record.file_size != size * dtype.itemsize:
                held = "nothing" if record is None else f"{record.file_size} bytes"
                raise CheckpointError(f"storage {key}: {size} x {dtype} declared, {held} there")
            storages[key] = Storage(dtype, size)
            storages[key].data = np.frombuffer(_content(mapped, record), dtype)
        return storages[key]

    return load(io.BytesIO(_content(mapped, records["data.pkl"])), _persistent(find))


def read_legacy(path: pathlib.Path) -> Any:
    """The object in a file that torch.save wrote before version 1.6.

    Raises:
      CheckpointError: the file is damaged, or not plain tensors.
    """
    mapped = _map(path)
    storages: dict[str, Storage] = {}

    def find(dtype: np.dtype, key: str, size: int) -> Storage:
        if size * dtype.itemsize > len(mapped):
            raise CheckpointError(f"storage {key}: {size} x {dtype} declared, more than the file")
        return storages.setdefault(key, Storage(dtype, size))

    if (load(mapped), load(mapped)) != (LEGACY_NUMBER, LEGACY_PROTOCOL):
        raise CheckpointError("not PyTorch's legacy format, or a later version of it")
    system = load(mapped)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("the numbers in the file are not little-endian")
    tree = load(mapped, _persistent(find))
    keys = load(mapped)
    valid = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not valid or sorted(keys) != sorted(storages):
        raise CheckpointError("the list of storages is damaged")
    position = mapped.tell()
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(mapped[position : position + 8], "little")
        position += 8 + size * storage.dtype.itemsize
        if size != storage.size or position > len(mapped):
            raise CheckpointError(f"storage {key} is cut off, or not of the size declared")
        start = position - size * storage.dtype.itemsize
        storage.data = np.frombuffer(mapped, storage.dtype, size, start) if size else _nothing()
    return tree


def read_pickle(path: pathlib.Path) -> Any:
    """The object in a plain pickle, whose arrays are NumPy's: a file of detectron2.

    Raises:
      CheckpointError: the file is damaged.
    """
    return load(_map(path))


def release(array: np.ndarray) -> None:
    """Gives the memory back that a mapped file behind an array has come to take; it stays valid."""
    base: Any = array
    while getattr(base, "base", None) is not None:
        base = base.base
    mapped = getattr(base, "obj", base)  # of a memoryview
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _map(path: pathlib.Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _nothing() -> np.ndarray:
    return np.zeros(0, np.uint8)


def _persistent(find: Callable[[np.dtype, str, int], Storage]) -> Callable[[Any], Any]:
    """Turns a persistent id, ('storage', type, key, device, size, ...), into a storage."""

    def storage(persistent_id: Any) -> Storage:
        match persistent_id:
            case ("storage", Global(name), str(key), str(), int(size), *views) if (
                name in STORAGES and size >= 0 and not any(views)
            ):
                found = find(np.dtype(STORAGES[name]), key, size)
                if (found.dtype, found.size) == (STORAGES[name], size):
                    return found
            case ("module", Global() as named, *_):  # a class, with its source, before 1.6
                return named
        shown = brief_all(persistent_id) if type(persistent_id) is tuple else brief(persistent_id)
        raise CheckpointError(f"not a storage of known type: {shown}")

    return storage


def _records(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's records by their name below its one top folder."""
    names = [info.filename for info in archive.infolist()]
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise CheckpointError("a zip archive, but not one of torch.save's")
    top = pickles[0].removesuffix("data.pkl")
    return {i.filename.removeprefix(top): i for i in archive.infolist()}


def _verify(archive: zipfile.ZipFile, size: int) -> None:
    """Reads all records of a file of `size` bytes, in small pieces, against their checksums."""
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"{info.filename} is compressed, which torch.save never does")
    if sum(info.file_size for info in archive.infolist()) > size:
        raise CheckpointError("the zip archive declares more bytes than the file has")
    for info in archive.infolist():
        with archive.open(info) as record:
            while record.read(CHUNK):
                pass


def _content(mapped: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored record: behind its local header and the names of varying length."""
    lengths = mapped[info.header_offset + 26 : info.header_offset + 30]
    name, extra = (int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    start = info.header_offset + 30 + name + extra
    return memoryview(mapped)[start : start + info.file_size]
