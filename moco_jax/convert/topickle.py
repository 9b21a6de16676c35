"""Pickles and PyTorch's zip archives, written without PyTorch.

Only what plain data and tensors need of pickle's protocols; large arrays go to the file in pieces.
"""

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

CHUNK = 1 << 22  # elements
ALIGNMENT = 64  # bytes, of the tensors in an archive, as torch.save aligns them
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every record: the same input gives the same bytes
TORCH_STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
}


class Named(NamedTuple):
    """A function or class, by name."""

    module: str
    name: str


class Call(NamedTuple):
    """What the reader gets by calling `function`, and then setting its state."""

    function: Named
    arguments: tuple
    state: Any = None


class Persistent(NamedTuple):
    """What the reader finds outside the pickle."""

    identity: tuple


class StateDict(OrderedDict):
    """An ordered dict whose `metadata` PyTorch finds as `_metadata`, as in its own state dicts."""

    def __init__(self, items: Iterable = (), metadata: dict | None = None):
        super().__init__(items)
        self.metadata = metadata


def dump(value: Any, write: Callable[[bytes], Any], protocol: int) -> None:
    """Writes a pickle.

    Args:
      value: None, bool, int, float, str, bytes, tuple, list, dict, OrderedDict, and the classes
        above, nested; NumPy arrays from protocol 3 on.
      write: takes the bytes, piece by piece.
      protocol: 2 as PyTorch's files, or 3.
    """
    write(b"\x80" + bytes([protocol]))
    _save(value, write)
    write(b".")


def _save(value: Any, write: Callable[[bytes], Any]) -> None:
    match value:
        case None:
            write(b"N")
        case bool():
            write(b"\x88" if value else b"\x89")
        case int() if -(2**31) <= value < 2**31:
            write(b"J" + struct.pack("<i", value))
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            write(b"\x8a" + bytes([len(raw)]) + raw)
        case float():
            write(b"G" + struct.pack(">d", value))
        case str():
            raw = value.encode()
            write(b"X" + struct.pack("<I", len(raw)) + raw)
        case bytes():
            write(b"B" + struct.pack("<I", len(value)) + value)
        case Named():
            write(f"c{value.module}\n{value.name}\n".encode())
        case Persistent():
            _save(value.identity, write)
            write(b"Q")
        case Call():
            _save(value.function, write)
            _save(value.arguments, write)
            write(b"R")
            if value.state is not None:
                _save(value.state, write)
                write(b"b")
        case tuple():
            _items(b"(", value, b"t", write)
        case list():
            _items(b"](", value, b"e", write)
        case dict():
            _dict(value, write)
        case np.ndarray():
            _array(value, write)
        case _:
            raise TypeError(f"a {type(value).__name__} is not written")


def _items(begin: bytes, items: Iterable[Any], end: bytes, write: Callable) -> None:
    write(begin)
    for item in items:
        _save(item, write)
    write(end)


def _dict(value: dict, write: Callable[[bytes], Any]) -> None:
    if isinstance(value, OrderedDict):
        _save(Call(Named("collections", "OrderedDict"), ()), write)
    else:
        write(b"}")
    _items(b"(", [x for item in value.items() for x in item], b"u", write)
    if getattr(value, "metadata", None):
        _save({"_metadata": OrderedDict(value.metadata)}, write)
        write(b"b")


def _array(array: np.ndarray, write: Callable[[bytes], Any]) -> None:
    """A NumPy array under the names that NumPy 1 and 2 both know."""
    dtype = Call(
        Named("numpy", "dtype"),
        (array.dtype.str[1:], False, True),
        (3, "<", None, None, None, -1, -1, 0),
    )
    rebuild = Named("numpy.core.multiarray", "_reconstruct")
    _save(Call(rebuild, (Named("numpy", "ndarray"), (0,), b"b")), write)
    write(b"(")
    for item in (1, array.shape, dtype, False):
        _save(item, write)
    write(b"B" + struct.pack("<I", array.nbytes))
    for piece in pieces(array):
        write(piece)
    write(b"tb")


def pieces(array: np.ndarray) -> Iterable[memoryview]:
    """The bytes of an array in row-major order, little by little."""
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield memoryview(flat[start : start + CHUNK].view(np.uint8))


def save_zip(value: Any, file: BinaryIO) -> None:
    """Writes what torch.load reads, with weights_only too.

    Args:
      value: nested dicts, lists and plain values; arrays become tensors.
      file: open for writing, able to seek.
    """
    arrays: list[np.ndarray] = []
    tree = _with_tensors(value, arrays)
    parts: list[bytes] = []
    dump(tree, parts.append, protocol=2)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _record(archive, "data.pkl", parts, sum(map(len, parts)))
        _record(archive, "byteorder", [b"little"], 6)
        for i, array in enumerate(arrays):
            _record(archive, f"data/{i}", pieces(array), array.nbytes)
        _record(archive, "version", [b"3\n"], 2)


def _with_tensors(value: Any, arrays: list[np.ndarray]) -> Any:
    """Replaces arrays by what rebuilds them from `arrays`, each from a storage of its own."""
    if isinstance(value, np.ndarray):
        kind = Named("torch", TORCH_STORAGES[value.dtype])
        storage = Persistent(("storage", kind, str(len(arrays)), "cpu", value.size))
        arrays.append(value)
        strides = [int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim)]
        hooks = Call(Named("collections", "OrderedDict"), ())
        arguments = (storage, 0, value.shape, tuple(strides), False, hooks)
        return Call(Named("torch._utils", "_rebuild_tensor_v2"), arguments)
    if isinstance(value, dict):
        out = StateDict((), getattr(value, "metadata", None)) if type(value) is not dict else {}
        for key, item in value.items():
            out[key] = _with_tensors(item, arrays)
        return out
    if isinstance(value, list):
        return [_with_tensors(item, arrays) for item in value]
    return value


def _record(
    archive: zipfile.ZipFile, name: str, content: Iterable[bytes | memoryview], size: int
) -> None:
    info = zipfile.ZipInfo(f"archive/{name}", EPOCH)
    large = size >= zipfile.ZIP64_LIMIT
    header = 30 + len(info.filename) + 20 * large
    gap = -(archive.fp.tell() + header + 4) % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
    with archive.open(info, "w", force_zip64=large) as record:
        for piece in content:
            record.write(piece)
