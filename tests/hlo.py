"""What a compiled program sends between devices, read from its text."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d+)?[a-z0-9]*\[([\d,]*)\]")


class Array(NamedTuple):
    """One array that a collective gives: 'f32', its shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def collectives(compiled) -> list[tuple[str, Array, str]]:
    """(kind, array, name of the operation in the source) for each array of each collective.

    The array is what comes out on each device; what stands in a loop counts once.
    """
    found = []
    for line in compiled.as_text().splitlines():
        call = _CALL.search(line)
        if not call:
            continue
        source = re.search(r'op_name="([^"]*)"', line)
        for kind, bits, dims in _ARRAY.findall(call[1]):
            shape = tuple(int(d) for d in dims.split(",") if d)
            size = math.prod(shape) * (int(bits) // 8 if bits else 1)
            found.append((call[2], Array(kind + bits, shape, size), source[1] if source else ""))
    return found


def in_loops(compiled) -> list[str]:
    """The lines of collectives that stand in the body of a loop."""
    text = compiled.as_text()
    bodies, inside, found = set(re.findall(r"body=%([\w.\-]+)", text)), False, []
    for line in text.splitlines():
        start = re.match(r"%([\w.\-]+) \(", line)
        inside = start[1] in bodies if start else inside and line != "}"
        if inside and _CALL.search(line):
            found.append(line)
    return found
