"""What the commands share: their lines on the terminal, their exit codes."""

import logging
import sys
from collections.abc import Callable, Sequence

from moco_jax.errors import EXIT_WRONG_INPUT, CheckpointError


def set_up_logging() -> None:
    """Our lines on stderr as they are; other libraries' only from WARNING on."""
    package = logging.getLogger("moco_jax")
    package.addHandler(logging.StreamHandler())
    package.setLevel(logging.INFO)
    package.propagate = False


def guarded(main: Callable[[], int | None]) -> int:
    """The exit code of a command: its own, or 2 after saying what is wrong with its input."""
    try:
        return main() or 0
    except (ValueError, OSError, CheckpointError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT


def numbers(kind: type) -> Callable[[str], tuple]:
    """A flag's type: numbers with commas between, '20,200'."""

    def parse(text: str) -> Sequence:
        return tuple(kind(part) for part in text.split(","))

    parse.__name__ = f"{kind.__name__}s"  # argparse names it in its errors
    return parse
