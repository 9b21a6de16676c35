"""The command: python -m moco_jax.main --config=configs/NAME.py[:ARG] --workdir=DIR.

Every option of the config can be overridden: --config.data.batch_size=512. Exit codes: 0 done,
75 stopped by a signal after saving (the same command resumes), 2 wrong config, data or workdir,
1 anything else.
"""

import logging
import sys
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from moco_jax.errors import CheckpointError, TrainingDivergedError, WorkerError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: configs/NAME.py, with :ARG where it takes one."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go; same to resume.")


def set_up_logging() -> None:
    """Our lines from INFO on, other libraries' from WARNING on, without a prefix for INFO."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    # The progress line stands on the terminal's current line: clear it first.
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    handler.setFormatter(_Formatter(clear))
    package = logging.getLogger("moco_jax")
    package.setLevel(logging.INFO)
    package.addHandler(handler)
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
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    set_up_logging()
    log = logging.getLogger("moco_jax")
    from moco_jax import train  # JAX starts here, after the flags are known to be right

    try:
        return train.run(CONFIG.value, WORKDIR.value)
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        log.error("%s", error)
        log.debug("", exc_info=True)
        return 2
    except (TrainingDivergedError, WorkerError) as error:
        log.error("%s", error)
        return 1


def run() -> None:
    """The entry point."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)


if __name__ == "__main__":
    run()
