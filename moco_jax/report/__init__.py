"""report.html: what a run did, or how several compare, as one file that opens offline.

python -m moco_jax report RUN RUN ... [--out=report.html]

A run writes its report when it ends. What needs the model or the data is kept in `RUN/report/`,
so that a report can be made again from the directory alone.
"""

import logging
import os
import pathlib
import time
from collections.abc import Sequence

import jax

from moco_jax import files
from moco_jax.evals.evaluation import Context
from moco_jax.evals.extraction import Encode
from moco_jax.extras import extra
from moco_jax.report import pictures, rundir

log = logging.getLogger(__name__)

FILE = "report.html"
_WORTH_SAYING = 3.0  # seconds


def write(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes the report of one run into its directory; returns its path.

    Raises:
      MissingError: the directory is not that of a run.
    """
    return compare([workdir], pathlib.Path(workdir) / FILE)


def compare(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> pathlib.Path:
    """Writes one report of several runs, on the same axes, to `out`; returns its path.

    Raises:
      MissingError: one of the directories is not that of a run; the error names it.
    """
    with extra("report", FILE):
        from moco_jax.report import page  # plotly and jinja2: 1 s to import
    path = pathlib.Path(out)
    files.replace(path, page.render(rundir.read_all(workdirs)))
    return path


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
