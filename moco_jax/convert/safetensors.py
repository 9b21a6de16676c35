"""The safetensors format: a length, a JSON header, and the tensors' bytes behind it."""

import json
import mmap
import pathlib
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from moco_jax.convert.topickle import pieces
from moco_jax.errors import CheckpointError, InputError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes, as the format's own readers allow


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors, as views into the mapped file, and the metadata.

    Raises:
      CheckpointError: the header is damaged, or a tensor does not lie in the file, or is of a
        type that is not read.
    """
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    if not 8 < start <= min(len(mapped), 8 + MAX_HEADER):
        raise CheckpointError("the safetensors header is cut off")
    try:
        header = json.loads(mapped[8:start])
        metadata = _metadata(header.pop("__metadata__", {}))
        tensors = {name: _tensor(mapped, start, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the safetensors header is damaged: {error}") from error
    return tensors, metadata


def parse(metadata: dict[str, str], name: str) -> Any:
    """An entry of the metadata that is JSON; an empty dict where there is none.

    Args:
      metadata: of the file.
      name: of the entry.

    Raises:
      CheckpointError: it is no JSON, or too deep.
    """
    try:
        return json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata {name!r} is damaged: {error}") from error


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise InputError("__metadata__ is not of names and texts")
    return found


def _tensor(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise InputError(f"a tensor of type {str(kind)[:20]}; read are {', '.join(DTYPES)}")
    dtype = DTYPES[kind]
    numbers = (*shape, begin, end)
    if len(numbers) > 34 or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise InputError(f"negative or broken numbers in {str(entry)[:200]}")
    size = 1
    for n in shape:
        size *= n
    if end - begin != size * dtype.itemsize or start + end > len(mapped):
        raise InputError(f"{entry} does not fit the file of {len(mapped)} bytes")
    if not size:
        return np.zeros(shape, dtype)
    return np.frombuffer(mapped, dtype, size, start + begin).reshape(shape)


def save(tensors: dict[str, np.ndarray], metadata: dict[str, str], file: BinaryIO) -> None:
    """Writes tensors under their names, and metadata; 'format': 'pt' is what transformers wants.

    Args:
      tensors: by name.
      metadata: texts by name.
      file: open for writing.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | metadata}
    position = 0
    for name, array in tensors.items():
        end = position + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        for piece in pieces(array):
            file.write(piece)
