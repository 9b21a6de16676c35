"""What the names in a pickle stand for: numbers, tensors, dicts, and inert objects for all else.

Nothing that a pickle names is imported or called. ALLOWED says which names mean something here;
a call of any other name gives an `Object`, which keeps what was put into it and does nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from moco_jax.errors import CheckpointError


class Global(NamedTuple):
    """A name that a pickle refers to."""

    name: str


class Record(dict):
    """A dict, an OrderedDict or a plain object's attributes; `attributes` is what was added."""

    __slots__ = ("attributes",)

    def __init__(self):
        self.attributes: Record | None = None

    def said(self, name: str) -> Any:
        """An entry or an attribute of that name; None where there is none."""
        found = self.get(name)
        return self.attributes.get(name) if found is None and self.attributes else found


class Object(Record):
    """What the call of a name gives that means nothing here."""

    __slots__ = ()


class Storage:
    """A flat run of numbers in the file; `data` appears once its place there is known."""

    def __init__(self, dtype: np.dtype, size: int):
        self.dtype, self.size = np.dtype(dtype), size
        self.data: np.ndarray | None = None


class Tensor(NamedTuple):
    """A strided view of a storage, as PyTorch saves it; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """The tensor without a copy.

        Raises:
          CheckpointError: it does not lie inside its storage, or repeats elements of it, as no
            weight does, so that a few bytes would become gigabytes.
        """
        numbers = (self.offset, *self.shape, *self.stride)
        valid = len(self.shape) == len(self.stride) <= MAX_DIMENSIONS
        valid = valid and all(type(n) is int and n >= 0 for n in numbers)
        if valid and 0 not in self.shape:
            end = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride)) + 1
            elements = 1
            for n in self.shape:
                elements *= n
            valid = max(end, elements) <= self.storage.size
        if not valid or self.storage.data is None:
            raise CheckpointError(
                f"a tensor of shape {brief_all(self.shape)}, strides {brief_all(self.stride)} and "
                f"offset {brief(self.offset)} does not fit its storage of {self.storage.size} "
                "elements"
            )
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        strides = tuple(s * self.storage.dtype.itemsize for s in self.stride)
        flat = self.storage.data[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


class Array:
    """An array of NumPy, whose numbers lie in the pickle itself and come with its state."""

    def __init__(self):
        self.tensor: Tensor | None = None

    def numpy(self) -> np.ndarray:
        """The array; CheckpointError where it has no numbers of a known type."""
        if self.tensor is None:
            raise CheckpointError("an array of NumPy without numbers")
        return self.tensor.numpy()

    def fill(self, state: Any) -> None:
        """Takes (version, shape, dtype, whether in Fortran's order, bytes); else stays empty."""
        match state:
            case (int(), tuple(shape), DType(dtype), bool(fortran), bytes(raw)) if (
                len(raw) % dtype.itemsize == 0
                and len(shape) <= MAX_DIMENSIONS
                and all(type(n) is int and n >= 0 for n in shape)
            ):
                storage = Storage(dtype, len(raw) // dtype.itemsize)
                storage.data = np.frombuffer(raw, dtype)
                self.tensor = Tensor(storage, 0, shape, _strides(shape, fortran))


class DType(NamedTuple):
    """A dtype of NumPy's numbers, little-endian."""

    dtype: np.dtype


MAX_DIMENSIONS = 32  # of a tensor
SHOWN = 8  # numbers or entries in a message
STORAGES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
_DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")


def brief(value: Any) -> str:
    """A value in a message; of what is nested the kind alone, for its text may have no end."""
    if isinstance(value, Global):
        return value.name
    if isinstance(value, str):
        return repr(value[:100])
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64):
        return str(value)
    return f"a {type(value).__name__}"


def brief_all(values: tuple) -> str:
    """The first values of a tuple in a message."""
    return f"({', '.join(map(brief, values[:SHOWN]))})"


def _strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    """Of an array without gaps, in elements."""
    strides, step = [], 1
    for n in shape if fortran else reversed(shape):
        strides.append(step)
        step *= n
    return tuple(strides if fortran else reversed(strides))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise CheckpointError(f"a tensor is made of {brief(storage)}, not of a storage")
    if not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise CheckpointError(f"a tensor of shape {brief(shape)} and strides {brief(stride)}")
    return Tensor(storage, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _record(items: Any = ()) -> Record:
    record = Record()
    for key, value in items:
        record[key_of(key)] = value
    return record


def _size(shape: Any = ()) -> tuple:
    if not isinstance(shape, tuple):
        raise CheckpointError(f"a size made of {brief(shape)}")
    return shape


def _encode(text: Any, encoding: Any) -> bytes:
    """How a pickle of protocol 2 holds bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError(f"bytes made of {brief(text)} as {brief(encoding)}")
    return text.encode("latin1")


def _dtype(code: Any, *_: Any) -> DType | Object:
    return DType(np.dtype(code)) if isinstance(code, str) and code in _DTYPES else Object()


def _array(*_: Any) -> Array:
    return Array()


def _array_of(buffer: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.fill((1, shape, dtype, order == "F", bytes(buffer)))
    return array


# What a name stands for when a pickle calls it.
ALLOWED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _record,
    "argparse.Namespace": _record,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.numeric._frombuffer": _array_of,
    "numpy._core.numeric._frombuffer": _array_of,
}


def key_of(key: Any) -> Any:
    """A key of a dict; one that is no plain value becomes a key that nothing else is equal to.

    Nested keys are never hashed: their hash may take for ever, or overflow the C stack.
    """
    return key if isinstance(key, str | int | float | bytes | None) else object()
