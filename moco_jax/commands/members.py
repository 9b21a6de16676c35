"""The runs of a study: what each is, how far it is, and one program for each.

A program of its own gives each run a device of its own memory, an exit code, and an end that leaves
the others alone.
"""

import contextlib
import logging
import pathlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from types import FrameType
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from moco_jax import metrics, options, studies
from moco_jax.commands import packaged
from moco_jax.commands.arguments import check_file, of_file, parse
from moco_jax.config import as_json
from moco_jax.errors import (
    EXIT_DIVERGED,
    EXIT_FAILED,
    EXIT_RESTART,
    EXIT_WRONG_INPUT,
    InputError,
    WrongInputError,
)
from moco_jax.report import rundir
from moco_jax.studies import Member, Study

log = logging.getLogger(__name__)

MAIN = ("-m", "moco_jax.main")
_BY_RANK = (EXIT_RESTART, EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_DIVERGED)


class MemberRun(NamedTuple):
    """A run of a member with one seed.

    Attributes:
      member: what it is a run of.
      workdir: of the run.
      arguments: of `moco_jax.main`, the workdir included.
      config: what these say.
    """

    member: Member
    workdir: pathlib.Path
    arguments: tuple[str, ...]
    config: ConfigDict

    @property
    def name(self) -> str:
        """The folder's."""
        return self.workdir.name


def load(path: str, size: str) -> Study:
    """The study that a file has.

    Args:
      path: of Python with `get_study([size])`; where configs/... is not there, the package's.
      size: its argument; '': the file's own choice.

    Raises:
      MissingError: there is no such file; the error names those that are.
      InputError: the file, the size or the study is wrong.
    """
    path = packaged.find(path)
    check_file("study", path)
    packaged.make_importable()
    log.info("Study: %s", packaged.described(f"{path}:{size}" if size else path))
    try:
        get_study = runpy.run_path(path).get("get_study")
        if get_study is None:
            raise InputError(f"{path} has no get_study(size)")
        return get_study(*[size] * bool(size))
    except Exception as error:
        raise of_file(error) or error from error


def plan(study: Study, workdir: pathlib.Path, changes: Sequence[str]) -> list[MemberRun]:
    """All runs, seed by seed, their configs read and checked.

    Args:
      study: what to run.
      workdir: of the study; each run has a folder in it.
      changes: '--config.NAME=VALUE' of all runs, after all else.

    Raises:
      InputError: a member's config is not there, or wrong.
    """
    studies.check(study)
    common = [f"--config.{name}={value}" for name, value in study.options.items()]
    runs = []
    for seed in study.seeds:
        for member in study.members:
            arguments = [f"--config={member.config}", *common, *changes, f"--config.seed={seed}"]
            folder = workdir / f"{member.name}-seed{seed}"
            try:
                config = _config(arguments)
            except WrongInputError as error:
                raise InputError(f"member {member.name!r}: {error}") from error
            runs.append(MemberRun(member, folder, (*arguments, f"--workdir={folder}"), config))
    return runs


def _config(arguments: list[str]) -> ConfigDict:
    sys.modules.pop("config_config", None)  # what the file before has defined
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    parse(values, ["study", *arguments])
    options.check(values["config"].value)
    return values["config"].value


def state(run: MemberRun) -> str:
    """One of rundir.OUTCOMES, 'unfinished', or 'not begun'."""
    if not (run.workdir / metrics.FILE).is_file():
        return "not begun"
    (found,) = rundir.read_all([run.workdir])
    # Under another config it is for `moco_jax.main` to go on, or to refuse.
    return rundir.outcome(found) if found.config == as_json(run.config) else "unfinished"


class Programs:
    """Runs training programs, one at a time; hands a signal on to the one that runs."""

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Programs":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, arguments: Sequence[str]) -> int:
        """Trains; returns the exit code, EXIT_FAILED for one that was killed."""
        command = [sys.executable, *MAIN, *arguments]
        # In a session of its own Ctrl-C comes once, from here.
        self._process = subprocess.Popen(command, start_new_session=True)
        if self.stopped:  # while it was started
            self._process.terminate()
        code = self._process.wait()
        known = code if code in (0, *_BY_RANK) else EXIT_FAILED
        return EXIT_RESTART if code and self.stopped else known

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.stopped = True
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def worst(codes: Collection[int]) -> int:
    """The exit code of several runs: first one after which the same command may succeed."""
    return next((code for code in _BY_RANK if code in codes), 0)
