"""The command: python -m moco_jax report RUN RUN ... [--out=report.html].

Exit codes: 0 done, 2 a directory is not that of a run, or the report cannot be written.
"""

import argparse
import pathlib
from collections.abc import Sequence

import jax

from moco_jax import report
from moco_jax.bucket import place
from moco_jax.commands.terminal import check_writable, guarded


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax report", description=report.__doc__)
    p.add_argument("runs", metavar="RUN", nargs="+", help="workdir of a run")
    p.add_argument(
        "--out",
        help="file to write; by default RUN/report.html, or ./report.html of several runs",
    )  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report; returns the exit code."""
    flags = parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed

    def run() -> None:
        alone = len(flags.runs) == 1 and place("RUN", flags.runs[0]) / report.FILE
        out = place("out", flags.out) if flags.out else alone or report.FILE
        if flags.out and isinstance(out, pathlib.Path):
            check_writable(out)
        print(report.compare(flags.runs, out))

    return guarded(run)
