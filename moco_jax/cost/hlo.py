"""What the text of a compiled program says: its collectives, its loops, what the compiler expects.

XLA's text has no fixed grammar; read here is what it looks like on CPU, GPU and TPU.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
_CALL = re.compile(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d+)?[a-z0-9]*\[([\d,]*)\]")
_START = re.compile(r"(?:ENTRY )?%([\w.\-]+) \(")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|\w+_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch|called)_computations=\{([^}]*)\}")
_KNOWN_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Array(NamedTuple):
    """One array that a collective gives: 'f32', its shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Text(NamedTuple):
    """A program as functions of lines.

    Attributes:
      functions: name -> lines.
      turns: name -> how often the function runs in one call of the program.
      looped: the functions that run in a loop of several turns.
    """

    functions: Mapping[str, Sequence[str]]
    turns: Mapping[str, int]
    looped: frozenset[str]

    def lines(self) -> Iterator[tuple[int, str]]:
        """(turns, line) of all lines that run."""
        for name, lines in self.functions.items():
            for line in lines:
                yield self.turns.get(name, 0), line


def parse(text: str) -> Text:
    """Takes a program's text apart."""
    functions, lines, entry = {}, [], ""
    for line in text.splitlines():
        if start := _START.match(line):
            lines = functions.setdefault(start[1], [])
            entry = start[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    calls = {name: list(_calls(functions, lines)) for name, lines in functions.items()}
    turns, looped, todo = Counter(), set(), [(entry, 1, False)]
    while todo:
        name, times, inside = todo.pop()
        turns[name] += times
        if inside:
            looped.add(name)
        todo += [(n, times * more, inside or more > 1) for n, more in calls.get(name, ())]
    return Text(functions, turns, frozenset(looped))


def _calls(functions: Mapping[str, Sequence[str]], lines: Sequence[str]) -> Iterator:
    """(function, times) that some lines call."""
    for line in lines:
        names = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            names += re.findall(r"%([\w.\-]+)", branches)
        times = _loop_turns(functions, line) if " while(" in line else 1
        yield from ((name, times) for name in names)


def _loop_turns(functions: Mapping[str, Sequence[str]], line: str) -> int:
    """Turns of the loop in a line: as it states, or the bound that its counter is held against."""
    if known := _KNOWN_TURNS.search(line):
        return int(known[1])
    condition = re.search(r"condition=%([\w.\-]+)", line)
    text = "\n".join(functions.get(condition[1], ())) if condition else ""
    bounds = re.findall(r"= s32\[\]\S* constant\((\d+)\)", text)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in text else 1


def given(line: str) -> list[tuple[str, Array]]:
    """(kind, array) of each array that comes out of a line's collective on each device."""
    call = _CALL.search(line)
    if not call:
        return []
    arrays = _ARRAY.findall(call[1])
    if call[3] and call[2] != "all-reduce":
        # Begun and ended apart, it names what goes in, what comes out, and perhaps counters.
        arrays = [array for array in arrays if array != ("u", "32", "")]
        arrays = arrays[len(arrays) // 2 :]
    found = []
    for kind, bits, dims in arrays:
        shape = tuple(int(d) for d in dims.split(",") if d)
        size = math.prod(shape) * (int(bits) // 8 if bits else 1)
        found.append((call[2], Array(kind + bits, shape, size)))
    return found


def group(line: str) -> int:
    """How many devices take part in each group of a line's collective; 0: it does not say."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    return 0


def sent(kind: str, size: int, group: int) -> float:
    """Bytes that leave each of `group` devices at least, where `size` come out on each.

    Args:
      kind: of the collective, 'all-reduce'.
      size: bytes.
      group: devices that take part; 0: unknown.
    """
    share = 1 - 1 / group if group else 1.0
    if kind == "reduce-scatter":
        return size * max(group - 1, 1)
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * size


def collectives(text: str) -> list[tuple[str, Array, str]]:
    """(kind, array, name of the operation in the source) for each array of each collective.

    The array is what comes out on each device; what stands in a loop counts once.
    """
    found = []
    for line in text.splitlines():
        source = re.search(r'op_name="([^"]*)"', line)
        found += [(*one, source[1] if source else "") for one in given(line)]
    return found
