"""What a compiled program needs on each device, by the compiler's account and its text."""

import re
from collections import Counter
from typing import NamedTuple

import jax

from moco_jax.cost import hlo

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCT = re.compile(
    r' (?:convolution|dot)\(|custom_call_target="[^"]*(?:gemm|conv|dot|matmul)[^"]*"', re.IGNORECASE
)


class Program(NamedTuple):
    """What one device holds, computes and sends in one call of a program.

    Attributes:
      memory: bytes by kind: 'arguments', 'results' beyond those given back in the arguments'
        place, 'temporary', 'code'.
      operations: as the compiler counts them; a loop's body once.
      bytes: read from and written to memory, as the compiler estimates it; a loop's body once.
      collectives: bytes that come out of each kind of collective, in all turns of loops.
      sent: bytes that leave the device for them, if each takes the least that it can.
      cycles: that the compiler expects the fused operations to take; 0 where it says nothing.
      loops: whether there are products in loops, of which the counts see one turn.
    """

    memory: dict[str, int]
    operations: float
    bytes: float
    collectives: dict[str, int]
    sent: float
    cycles: int
    loops: bool


def expected_cycles(line: str) -> int:
    """What the compiler expects an instruction to take; 0 where it says nothing.

    Args:
      line: of the program's text.
    """
    found = _CYCLES.search(line)
    return int(found[1]) if found else 0


def read(compiled: jax.stages.Compiled) -> Program:
    """The account of a compiled program."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    program = hlo.parse(text)
    received, sent, cycles = Counter(), 0.0, 0
    for turns, line in program.lines():
        for kind, array in hlo.given(line):
            received[kind] += turns * array.bytes
            sent += turns * hlo.sent(kind, array.bytes, hlo.group(line))
        cycles += turns * expected_cycles(line)
    loops = any(_PRODUCT.search(line) for name in program.looped
                for line in program.functions[name])  # fmt: skip
    return Program(
        memory={
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        operations=cost["flops"],
        bytes=cost["bytes accessed"],
        collectives=dict(received),
        sent=sent,
        cycles=cycles,
        loops=loops,
    )
