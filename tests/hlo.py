"""What tests ask of the text of a compiled program."""

import re

from moco_jax.cost import hlo


def collectives(compiled):
    return hlo.collectives(compiled.as_text())


def in_loops(compiled) -> list[str]:
    """The lines of collectives that stand in the body of a loop."""
    text = compiled.as_text()
    functions = hlo.parse(text).functions
    bodies = re.findall(r"body=%([\w.\-]+)", text)
    return [line for name in bodies for line in functions[name] if hlo.given(line)]
