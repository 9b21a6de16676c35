"""The command: python -m moco_jax.main --config=configs/NAME.py[:ARG] --workdir=DIR.

Every option of the config can be overridden: --config.data.batch_size=512. Exit codes: 0 done,
75 to be started again with the same command (stopped by a signal after saving, or another process
of the run is gone or missing), 2 wrong flags, config, data or workdir, 3 the training diverged,
1 anything else. After 2 and 3 the same command would fail again.
"""

import logging
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from moco_jax.commands import packaged
from moco_jax.commands.arguments import parse
from moco_jax.commands.terminal import guarded, version
from moco_jax.commands.upper import upper
from moco_jax.errors import (
    EXIT_FAILED,
    EXIT_RESTART,
    BackendError,
    InputError,
    StorageError,
    TrainingDivergedError,
    WorkerError,
    WrongInputError,
    exit_code,
)

# One line says what they are; of others the traceback helps.
EXPECTED = (WrongInputError, TrainingDivergedError, BackendError, StorageError, WorkerError)

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: configs/NAME.py, with :ARG where it takes one."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go; same to resume.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: host:port of process 0; the next port is used as well."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many they are; 1: one alone, although there may be a cluster."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")
START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 600, "Seconds in which all processes have to come."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say memory, compile time, seconds a step, time and disk of the run, after a "
    "few steps that are not kept; write nothing.",
)  # fmt: skip


def set_up_logging(process: int = 0) -> None:
    """Our lines from INFO on, other libraries' from WARNING on, without a prefix for INFO.

    Processes other than 0 say only what is a warning or worse, and who they are.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    # The progress line stands on the terminal's current line: clear it first.
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    if process:
        start += f"[process {process}] "
        handler.setLevel(logging.WARNING)
    handler.setFormatter(_Formatter(start))
    package = logging.getLogger("moco_jax")
    package.setLevel(logging.INFO)
    package.handlers[:] = [handler]
    package.propagate = False


class _Formatter(logging.Formatter):
    def __init__(self, start: str):
        super().__init__()
        self._start = start

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname}: "
        return f"{self._start}{level}{super().format(record)}"


def main(argv: Sequence[str]) -> int:
    """Runs the experiment; returns the exit code."""
    del argv
    set_up_logging()
    from moco_jax.cluster.stop import ends_at_once

    with ends_at_once(_end):
        return _main()


_line = None  # to the other processes


def _end(name: str) -> None:
    """Ends this process, and with it the others, where there is nothing to save."""
    from moco_jax.cluster.lifeline import end_process

    text = f"{name} outside of training steps: nothing to save; the same command resumes."
    if _line:
        _line.fail(EXIT_RESTART, text)
    end_process(EXIT_RESTART, text)


def _main() -> int:
    # JAX starts here, after the flags are known to be right.
    from moco_jax.cluster import rendezvous
    from moco_jax.data.prefetch import end_with_stuck_threads
    from moco_jax.files import is_trouble
    from moco_jax.training import loop, own_run

    global _line
    code, problem = EXIT_FAILED, ""
    try:
        place = rendezvous.find_place(
            COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, START_TIMEOUT.value
        )
        if place and DRY_RUN.value:
            raise InputError("--dry_run is of one process (--num_processes=1); python -m moco_jax "
                             "plan --topology=... is of many")  # fmt: skip
        if place:
            set_up_logging(place.index)
        own_run.take(CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]))
        if place:
            _line = rendezvous.join(place, CONFIG.value, WORKDIR.value, START_TIMEOUT.value)
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        logging.getLogger("moco_jax").info("Config: %s", packaged.described(file))
        build = _builder(CONFIG.value)
        if DRY_RUN.value:
            code = _rehearse(build)
        else:
            code = loop.run(CONFIG.value, WORKDIR.value, _line, build)
    except EXPECTED as error:
        code, problem = _report(error)
    except (Exception, KeyboardInterrupt) as error:
        if is_trouble(error):
            code, problem = EXIT_RESTART, _report(error)[1]
        elif not _line:
            raise
        else:
            problem = rendezvous.explain(error)
    if _line:
        rendezvous.leave(_line, code, problem)
    end_with_stuck_threads(code)
    return code


def _builder(config: ConfigDict) -> Callable:
    """What makes the experiment of a config; of an upper floor only where that is asked for."""
    from moco_jax.training import experiment

    room = upper(config)
    return room.build if room else experiment.build


def _rehearse(build: Callable) -> int:
    from moco_jax.cost.rehearsal import rehearse

    print("\n".join(rehearse(CONFIG.value, WORKDIR.value, build)), flush=True)
    return 0


def _report(error: Exception) -> tuple[int, str]:
    log = logging.getLogger("moco_jax")
    log.error("%s", error)
    log.debug("", exc_info=True)
    return exit_code(error), str(error)


def _parsed(argv: Sequence[str]) -> list[str]:
    """Absl's parser of flags, but one line and code 2 for what is wrong, and 0 after --help."""
    if "--version" in argv[1:]:
        print(version())
        sys.exit(0)
    try:
        if code := guarded(lambda: parse(flags.FLAGS, argv)):
            sys.exit(code)
    except SystemExit as end:
        if end.code != 1:  # only absl's --help ends with 1
            raise
        print(f"\nConfigs, with their arguments:\n{packaged.listing()}")
        print("\npython -m moco_jax configs NAME:ARGUMENT shows one, and all its options.")
        sys.exit(0)
    return list(argv[:1])


def run() -> None:
    """The entry point."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parsed)


if __name__ == "__main__":
    run()
