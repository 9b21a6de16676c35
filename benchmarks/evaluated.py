"""One evaluation as a run of the trainer, for the benchmarks that compare several."""

import pathlib
import resource
from collections.abc import Callable
from typing import Any

from moco_jax import results
from moco_jax.config import ConfigDict
from moco_jax.training import experiment, loop


def evaluated(
    config: ConfigDict,
    workdir: pathlib.Path,
    evaluation: str,
    build: Callable[[ConfigDict], experiment.Experiment] = experiment.build,
) -> dict[str, Any]:
    """Runs `config`, or finds it complete in `workdir`; returns its record of results.json.

    `build` is that of its protocol.

    Raises:
      SystemExit: a signal stopped the run.
    """
    if loop.run(config, workdir, build=build):
        raise SystemExit("stopped; the same command goes on")
    (record,) = (r for r in results.read(workdir) if r["evaluation"] == evaluation)
    return record


def cpu_seconds() -> float:
    """Of this process, over all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
