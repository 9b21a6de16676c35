"""Pickles read without executing them.

Python's own unpickler calls whatever a pickle names. Here the standard library only splits a
pickle into its opcodes (`pickletools`); this module interprets those that data needs, and a name
stands for something only when ALLOWED says what. Everything else is refused, nothing is called.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from moco_jax.errors import CheckpointError


class Global(NamedTuple):
    """A name that a pickle refers to."""

    name: str


class Record(dict):
    """A dict, an OrderedDict or a plain object's attributes; `attributes` is what was added."""

    attributes: dict[str, Any]


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
        valid = len(self.shape) == len(self.stride) <= 32
        valid = valid and all(type(n) is int and n >= 0 for n in numbers)
        if valid and 0 not in self.shape:
            end = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride)) + 1
            elements = 1
            for n in self.shape:
                elements *= n
            valid = max(end, elements) <= self.storage.size
        if not valid or self.storage.data is None:
            raise CheckpointError(
                f"a tensor of shape {self.shape}, strides {self.stride} and offset {self.offset} "
                f"does not fit its storage of {self.storage.size} elements"
            )
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        strides = tuple(s * self.storage.dtype.itemsize for s in self.stride)
        flat = self.storage.data[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


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


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise CheckpointError(f"a tensor is made of {type(storage).__name__}, not of a storage")
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _record(items: Any = ()) -> Record:
    record = Record()
    for key, value in items:
        record[_key(key)] = value
    return record


# What a name stands for when a pickle calls it.
ALLOWED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _record,
    "argparse.Namespace": _record,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": lambda *place: ":".join(map(str, place)),
}


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | None):  # deeply nested keys overflow the C stack
        raise CheckpointError(f"a {type(key).__name__} as key of a dict")
    return key


def load(file: BinaryIO, storage: Callable[[Any], Storage] | None = None) -> Any:
    """Reads the pickle that starts at the file's position and leaves it right behind.

    Args:
      file: the pickle.
      storage: gives the Storage for a persistent id; None where there may be none.

    Returns:
      Plain values, lists, tuples, Records and Tensors.

    Raises:
      CheckpointError: the pickle is damaged, or holds more than plain data and tensors.
    """
    machine = _Machine(storage)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.result()
    except CheckpointError:
        raise
    except Exception as error:  # whatever garbage leads to
        raise CheckpointError(f"the pickle is damaged: {str(error) or repr(error)}") from error


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_EMPTY = {"EMPTY_DICT": Record, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine of the pickle protocol, without objects and without calls by name."""

    def __init__(self, storage: Callable[[Any], Storage] | None):
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._storage = storage

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self._stack.pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in _IGNORED:
            raise CheckpointError(f"the pickle needs {name}, which plain data does not")

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, set):
            target.update(_key(item) for item in items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise CheckpointError(f"the pickle appends to a {type(target).__name__}")

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, Record) or len(items) % 2:
            raise CheckpointError(f"the pickle sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2]):
            target[_key(key)] = value

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._to_mark())

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _global(self, argument: str) -> None:
        self._push_global(argument.replace(" ", "."))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_global(f"{module}.{name}")

    def _push_global(self, name: str) -> None:
        if name not in ALLOWED and name not in STORAGES:
            raise CheckpointError(
                f"the pickle asks for {name}, which is neither data nor a tensor. It was not run"
            )
        self._stack.append(Global(name))

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or function.name not in ALLOWED:
            raise CheckpointError("the pickle calls what is not a function")
        if not isinstance(arguments, tuple):
            raise CheckpointError("the pickle calls a function without a tuple of arguments")
        self._stack.append(ALLOWED[function.name](*arguments))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Record) or not isinstance(state, Record):
            raise CheckpointError(f"the pickle sets attributes of a {type(target).__name__}")
        target.attributes = state

    def _persistent(self, _: Any) -> None:
        if self._storage is None:
            raise CheckpointError("the pickle refers to a storage outside of it")
        self._stack.append(self._storage(self._stack.pop()))


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "TUPLE": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
