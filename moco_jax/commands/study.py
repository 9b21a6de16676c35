"""The command: python -m moco_jax study configs/study/NAME.py[:SIZE] --workdir=DIR.

Every run is a program of its own in a folder of its own, one after the other; those that are
complete or diverged are not run again, one that was stopped goes on. DIR gets table.md, table.csv
and report.html. Exit codes: 0 all complete; 75 stopped, or one can go on: the same command resumes;
1 one failed; 2 wrong input, of this command or of a run; 3 a run diverged.
"""

import argparse
import logging
import pathlib
import shlex
from collections.abc import Callable, Sequence
from functools import partial

import jax

from moco_jax import files, report
from moco_jax.commands import members
from moco_jax.commands.members import MemberRun, Programs
from moco_jax.commands.terminal import guarded, numbers
from moco_jax.errors import EXIT_DIVERGED, EXIT_RESTART
from moco_jax.report import comparison

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(
        prog="python -m moco_jax study", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.NAME=VALUE changes an option of all runs, as of python -m moco_jax.main.",
    )  # fmt: skip
    p.add_argument("study", help="configs/study/NAME.py of this folder, or else the "
                   "package's, with :demo, :cifar10 or :imagenet")  # fmt: skip
    p.add_argument("--workdir", required=True, help="folder of the study; the same to resume")
    p.add_argument(
        "--part", type=part, default=(1, 1), metavar="i/n",
        help="only each n-th run from the i-th on: 1/4 to 4/4 in four processes or array jobs",
    )  # fmt: skip
    p.add_argument("--seeds", type=numbers(int), help="0,1,2: instead of the study's own")
    p.add_argument(
        "--list", action="store_true", help="print the commands of the runs, and run none"
    )
    return p


def part(text: str) -> tuple[int, int]:
    """A flag's type: '2/4'."""
    which, _, count = text.partition("/")
    if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected i/n, from 1/n to n/n")
    return int(which), int(count)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study, or a part of it; returns the exit code."""
    p = parser()
    own, changes = p.parse_known_args(argv)
    for text in changes:
        if not text.startswith("--config.") or "=" not in text:
            p.error(f"unexpected argument {text!r}; options of the runs are --config.NAME=VALUE")
        if text.startswith("--config.seed="):
            p.error(f"{text}: expected --seeds=0,1")
    jax.config.update("jax_platforms", "cpu")  # the devices are for the runs
    return guarded(lambda: _main(own, changes))


def _main(own: argparse.Namespace, changes: Sequence[str]) -> int:
    path, _, size = own.study.partition(":")
    study = members.load(path, size)
    study = study._replace(seeds=own.seeds or study.seeds)
    workdir = files.workdir_path(own.workdir)
    runs = members.plan(study, workdir, changes)
    which, count = own.part
    mine = runs[which - 1 :: count]
    if own.list:
        for run in mine:
            print(shlex.join(["python", *members.MAIN, *run.arguments]))
        return 0
    files.prepare_workdir(workdir)
    title = f"{shlex.join([own.study, *changes])}, seeds {', '.join(map(str, study.seeds))}"
    table = partial(_write_table, runs, workdir, title)
    codes = _run_all(mine, table)
    print(table())
    _write_report(runs, workdir)
    for name, code in codes.items():
        if code:
            log.error("%s: %s", name, _END.get(code, f"it failed, code {code}"))
    return members.worst(codes.values())


_END = {
    EXIT_RESTART: "stopped or not begun; the same command resumes",
    EXIT_DIVERGED: "it diverged; without its folder it would be run again",
    2: "wrong input (code 2); its own lines above say what",
}


def _run_all(mine: Sequence[MemberRun], table: Callable[[], str]) -> dict[str, int]:
    """Runs what is left of a part, and writes the table after each; exit codes by name."""
    codes = {}
    with Programs() as programs:
        for number, run in enumerate(mine, 1):
            state = members.state(run)
            final = {"complete": 0, "diverged": EXIT_DIVERGED}.get(state)
            there = state if final is not None else "begins" if state == "not begun" else "goes on"
            log.info("=== %d of %d: %s: %s", number, len(mine), run.name, there)
            if final is None:
                final = EXIT_RESTART if programs.stopped else programs.run(run.arguments)
                table()
            codes[run.name] = final
    return codes


def _write_table(runs: Sequence[MemberRun], workdir: pathlib.Path, title: str) -> str:
    """Writes the table of all that is there, of other parts as well; returns its Markdown."""
    by_member: dict[str, list[MemberRun]] = {}
    for run in runs:
        by_member.setdefault(run.member.name, []).append(run)
    rows = [
        comparison.read(
            name, [(run.workdir, members.state(run)) for run in own], own[0].member.published
        )
        for name, own in by_member.items()
    ]
    text = f"{title}: mean ± standard deviation of the n complete runs\n\n"
    text += comparison.as_markdown(rows)
    files.write(workdir / "table.md", text)
    files.write(workdir / "table.csv", comparison.as_csv(rows))
    return text


def _write_report(runs: Sequence[MemberRun], workdir: pathlib.Path) -> None:
    """Writes the report of what has begun."""
    begun = [run.workdir for run in runs if members.state(run) != "not begun"]
    made = "table.md, table.csv"
    try:
        if begun:
            made += f", {report.compare(begun, workdir / report.FILE).name}"
    except Exception as error:  # as of a run: a report must not fail it
        log.warning("No %s: %s: %s", report.FILE, type(error).__name__, error)
    print(f"Results in {workdir}: {made}")
