"""The command: python -m moco_jax convert SRC DST [--to FORMAT] [--arch ...].

Exit codes: 0 done, 2 what is wrong with the files or arguments is said.
"""

import argparse
from collections.abc import Sequence

import jax

from moco_jax import convert
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.convert.arch import ARCHS
from moco_jax.convert.contents import ROLES
from moco_jax.convert.formats import FORMATS

ENCODER_HELP = f"of several: {', '.join(ROLES)}, or its name in the file; default: query, teacher"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax convert", description=convert.__doc__)
    p.add_argument("source", metavar="SRC", help="file or folder; its content tells the format")
    p.add_argument("target", metavar="DST", help="file or folder to write; it must not exist")
    p.add_argument(
        "--to", choices=[name for name, form in FORMATS.items() if form.save],
        help="format to write; by default what the end of DST stands for",
    )  # fmt: skip
    p.add_argument("--arch", choices=list(ARCHS), help="architecture, where SRC leaves it open")
    p.add_argument("--heads", type=int, help="attention heads, where SRC leaves them open")
    p.add_argument("--encoder", help=ENCODER_HELP)
    p.add_argument(
        "--image_size", type=int, help="pixels, for whose patches the position embedding is made"
    )
    p.add_argument("--partial", action="store_true", help="take what fits, list what does not")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit code."""
    flags = parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be in use, and does not help

    def run() -> None:
        check_writable(flags.target)
        convert.convert(**vars(flags))

    return guarded(run)
