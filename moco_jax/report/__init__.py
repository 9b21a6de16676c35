"""report.html: what a run did, or how several compare, as one file that opens offline.

python -m moco_jax report RUN RUN ... [--out=report.html]

A run writes its report at its evaluations, and with pictures when it ends. What needs the model or
the data is kept in `RUN/report/`, so that a report can be made again from the directory alone.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import jax

from moco_jax import files
from moco_jax.bucket import BucketPath, Place, place
from moco_jax.evals.evaluation import Context
from moco_jax.evals.extraction import Encode
from moco_jax.extras import extra
from moco_jax.report import pictures, rundir
from moco_jax.report.origin import Compiled

log = logging.getLogger(__name__)

FILE = "report.html"
_WORTH_SAYING = 3.0  # seconds
_REST = 50  # times as long as a report took to write, before the next one while a run goes on


def write(workdir: str | os.PathLike | BucketPath) -> Place:
    """Writes the report of one run into its directory; returns its path.

    Raises:
      MissingError: the directory is not that of a run.
    """
    return compare([workdir], place("workdir", workdir) / FILE)


def compare(
    workdirs: Sequence[str | os.PathLike | BucketPath], out: str | os.PathLike | BucketPath
) -> Place:
    """Writes one report of several runs, on the same axes, to `out`; returns its path.

    Args:
      workdirs: of the runs, in the order to be shown in.
      out: the file to write.

    Raises:
      MissingError: one of the directories is not that of a run; the error names it.
    """
    with extra("report", FILE):
        from moco_jax.report import page  # plotly and jinja2: 1 s to import
    path = place("out", out)
    files.replace(path, page.render(rundir.read_all(workdirs)))
    return path


class Ongoing:
    """The report of a run that goes on: curves and facts, at most a fiftieth of its time.

    Whatever goes wrong is one warning, and the end of it.
    """

    def __init__(self, context: Context, compiled: Compiled):
        """Says with what step the run goes on."""
        self._workdir, self._next = context.workdir, 0.0
        self._writing = jax.process_index() == 0
        facts = partial(rundir.facts, context, rundir.UNFINISHED, compiled=compiled)
        self._attempt(lambda: rundir.save_facts(self._workdir, facts()))

    def write(self) -> None:
        """Writes the report of what is there, where the last time is long enough ago."""
        begin = time.monotonic()
        if begin >= self._next:
            self._attempt(lambda: write(self._workdir))
            self._next = time.monotonic() + _REST * (time.monotonic() - begin)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            if self._writing:
                action()
        except Exception as error:  # a report must never fail a run
            self._writing = False
            log.warning("No %s until the run ends: %s: %s", FILE, type(error).__name__, error)


def conclude(
    context: Context,
    outcome: str,
    encode: Encode | None = None,
    message: str = "",
) -> None:
    """What the loop calls when a run ends: gathers pictures and facts, writes the report.

    Whatever goes wrong here is one warning: the run's own files are complete before. Features
    are computed by all processes together; the first one writes.

    Args:
      context: of the run.
      outcome: one of rundir.OUTCOMES.
      encode: evaluation batch -> features (B, F), for pictures; None: curves only, quickly.
      message: why the run ended, where that needs words.
    """
    begin, workdir = time.monotonic(), context.workdir
    try:
        found = pictures.collect(context, encode) if encode else {}
        if jax.process_index() == 0:
            if found:
                rundir.save_pictures(workdir, found)
            rundir.save_facts(workdir, rundir.facts(context, outcome, message))
            write(workdir)
    except Exception as error:  # a report must never fail a run
        log.warning("No %s: %s: %s", FILE, type(error).__name__, error)
        return
    if time.monotonic() - begin > _WORTH_SAYING:
        log.info("The report took %.0f s", time.monotonic() - begin)
