"""The commands: python -m moco_jax COMMAND ...; training is python -m moco_jax.main.

Exit codes: 0 done, 2 there is no such command; else the command's own.
"""

import difflib
import pkgutil
import sys
from collections.abc import Sequence

from moco_jax.commands import COMMANDS
from moco_jax.commands.terminal import set_up_logging, version


def listing() -> str:
    """What there is, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join([
        "python -m moco_jax COMMAND [--help]   python -m moco_jax --version", *lines, "",
        "Training: python -m moco_jax.main --config=configs/NAME.py --workdir=DIR",
    ])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(listing())
        return 0
    if name == "--version":
        print(version())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.0)[0]
        print(f"ERROR: no command {name!r}; did you mean {near!r}?\n{listing()}", file=sys.stderr)
        return 2
    set_up_logging()
    return pkgutil.resolve_name(f"moco_jax.commands.{name}:main")(rest)


if __name__ == "__main__":
    sys.exit(main())
