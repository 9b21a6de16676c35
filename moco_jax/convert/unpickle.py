"""Pickles read without executing them.

Python's own unpickler calls whatever a pickle names. Here the standard library only splits a
pickle into its opcodes (`pickletools`); this module interprets those that data needs, and a name
stands for something only when `placeholders.ALLOWED` says what; else it stands for an inert object.

What a pickle makes takes at most some hundred times its bytes: an opcode makes one value of
constant size, the arguments of all calls together are no longer than the file, and tuples, which
share parts at no cost, have bounded depth and content.
"""

import logging
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from moco_jax.convert.placeholders import (
    ALLOWED,
    STORAGES,
    Array,
    DType,
    Global,
    Object,
    Record,
    Tensor,
    brief,
    key_of,
)
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

MAX_OPCODES = 20_000_000
MAX_DEPTH = 100  # of nested tuples
MAX_NODES = 1_000_000  # values in a nested tuple, each as often as it is met
MAX_NAME = 200  # characters
SHOWN = 10  # names in a message


def load(file: BinaryIO, storage: Callable[[Any], Any] | None = None) -> Any:
    """Reads the pickle that starts at the file's position and leaves it right behind.

    Args:
      file: the pickle.
      storage: gives the Storage or the name for a persistent id; None where there may be none.

    Returns:
      Plain values, lists (sets too), tuples, Records, Tensors, Arrays, and Objects, whose names
      are logged.

    Raises:
      CheckpointError: the pickle is damaged, or made to grow.
    """
    machine = _Machine(storage, _bytes_of(file))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count == MAX_OPCODES:
                raise CheckpointError(f"the pickle has more than {MAX_OPCODES} parts")
            machine.step(opcode.name, argument)
        value = machine.result()
    except CheckpointError:
        raise
    except Exception as error:  # whatever garbage leads to
        raise CheckpointError(f"the pickle is damaged: {str(error) or repr(error)}") from error
    if machine.unknown:
        some = ", ".join(machine.unknown[:SHOWN]) + ", ..." * (len(machine.unknown) > SHOWN)
        log.info("Passed over, and not run: %s", some)
    return value


def _bytes_of(file: BinaryIO) -> int:
    start = file.tell()
    file.seek(0, 2)
    size = file.tell()
    file.seek(start)
    return size


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
_EMPTY = {"EMPTY_DICT": Record, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_IGNORED = {"PROTO", "FRAME", "STOP"}
# Names that stand beside numbers, and are not called.
_UNCALLED = {"numpy.ndarray", *(f"torch.{name}" for name in ("float32", "float16", "bfloat16"))}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine of the pickle protocol, without objects and without calls by name."""

    def __init__(self, storage: Callable[[Any], Any] | None, size: int):
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._storage = storage
        self._allowance = size  # what calls may still take, in items and characters
        self._tuples: dict[int, tuple[tuple, int, int]] = {}  # by id: itself, its depth, its nodes
        self.unknown: list[str] = []

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self._stack.pop() for _ in range(_TUPLES[name])]
            self._push_tuple(items[::-1])
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

    def _pop_mark(self, _: Any) -> None:
        self._to_mark()

    def _tuple(self, _: Any) -> None:
        self._push_tuple(self._to_mark())

    def _push_tuple(self, items: list[Any]) -> None:
        inside = [self._tuples[id(x)][1:] for x in items if id(x) in self._tuples]
        depth = 1 + max((d for d, _ in inside), default=0)
        nodes = len(items) + sum(n for _, n in inside)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise CheckpointError("the pickle nests tuples without end, as no weights do")
        made = tuple(items)
        self._tuples[id(made)] = made, depth, nodes
        self._stack.append(made)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Object):  # what is appended to one is of no concern
            raise CheckpointError(f"the pickle appends to {brief(target)}")

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, Record) or len(items) % 2:
            raise CheckpointError(f"the pickle sets items of {brief(target)}")
        for key, value in zip(items[::2], items[1::2]):
            target[key_of(key)] = value

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
        if len(name) > MAX_NAME or not name.isprintable():
            raise CheckpointError(f"the pickle has a name of {len(name)} characters: {name[:50]!r}")
        known = name in ALLOWED or name in STORAGES or name in _UNCALLED
        if not known and len(self.unknown) <= SHOWN and name not in self.unknown:
            self.unknown.append(name)
        self._stack.append(Global(name))

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global | Object):
            raise CheckpointError("the pickle calls what is not a function")
        if not isinstance(arguments, tuple):
            raise CheckpointError("the pickle calls a function without a tuple of arguments")
        meaning = ALLOWED.get(function.name) if isinstance(function, Global) else None
        if meaning:
            self._spend(arguments)
        self._stack.append(meaning(*arguments) if meaning else Object())

    def _call_with_names(self, _: Any) -> None:
        self._stack.pop()  # arguments by name
        self._call(_)

    def _spend(self, values: tuple) -> None:
        """Takes the length of values that may be copied from the allowance."""
        sized = str | bytes | bytearray | list | tuple | dict
        self._allowance -= sum(len(v) for v in values if isinstance(v, sized))
        if self._allowance < 0:
            raise CheckpointError("the pickle makes more of its parts than the file holds")

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Array):
            if isinstance(state, tuple) and state and isinstance(state[-1], str):
                self._spend(state[-1:])
                state = (*state[:-1], state[-1].encode("latin1"))  # Python 2's bytes
            target.fill(state)
        elif isinstance(target, Record) and isinstance(state, Record):
            target.attributes = state
        elif not isinstance(target, Object | DType | Tensor):
            raise CheckpointError(f"the pickle sets attributes of {brief(target)}")

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
    "NEWOBJ_EX": _Machine._call_with_names,
    "FROZENSET": _Machine._tuple,
    "POP_MARK": _Machine._pop_mark,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
