"""A run as its directory tells it: config, metrics, results, and what `RUN/report/` keeps."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from moco_jax import __version__, files, metrics, results
from moco_jax.bucket import BucketPath, Place, place
from moco_jax.config import choose
from moco_jax.data.source import data_facts, existing
from moco_jax.errors import MissingError
from moco_jax.evals import confusion
from moco_jax.evals.evaluation import Context
from moco_jax.report import origin
from moco_jax.report.origin import Compiled

OUTCOMES = ("complete", "stopped", "diverged")
UNFINISHED = "unfinished"  # goes on, or was killed
_KEYS = {"outcome", "message", "steps", "step", "date", "hardware", "versions", "data"}
_FACTS, _PICTURES = "report/run.json", "report/pictures.npz"
_DETECTIONS = "report/detections.npz"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Run(NamedTuple):
    """What is known of a run.

    Attributes:
      name: the directory's, made longer where two runs would have the same.
      config: as in config.json; {} where there is none.
      rows: of metrics.jsonl.
      results: of results.json.
      facts: of report/run.json; {} where there is none.
      pictures: arrays of report/pictures.npz by name; {} where there is none.
      confusion: the same of knn_confusion.npz.
      detections: the same of report/detections.npz.
    """

    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    results: list[dict[str, Any]]
    facts: dict[str, Any]
    pictures: dict[str, np.ndarray]
    confusion: Mapping[str, np.ndarray] = MappingProxyType({})
    detections: Mapping[str, np.ndarray] = MappingProxyType({})


def read_all(workdirs: Sequence[str | os.PathLike | BucketPath]) -> list[Run]:
    """Reads runs, each under a name of its own.

    Raises:
      MissingError: a directory does not exist, or is not that of a run.
    """
    paths = [_existing(workdir) for workdir in workdirs]
    short = [path.name for path in paths]
    unique = len(set(short)) == len(short)
    names = short if unique else [str(path) for path in paths]
    return [_read(path, name) for path, name in zip(paths, names)]


def _existing(workdir: str | os.PathLike | BucketPath) -> Place:
    path = place("RUN", workdir)
    return path if isinstance(path, BucketPath) else existing(str(workdir)).resolve()


def _read(path: Place, name: str) -> Run:
    if not (path / metrics.FILE).is_file():
        raise MissingError(f"{path} is not the workdir of a run: it has no {metrics.FILE}")
    return Run(
        name,
        files.read_json(path / "config.json", dict),
        metrics.read(path),
        results.read(path),
        _facts_of(path),
        files.read_arrays(path / _PICTURES),
        files.read_arrays(path / confusion.FILE),
        files.read_arrays(path / _DETECTIONS),
    )


def _facts_of(workdir: Place) -> dict[str, Any]:
    return files.read_json(workdir / _FACTS, dict, lambda facts: facts.keys() >= _KEYS)


def save_pictures(workdir: Place, arrays: dict[str, np.ndarray]) -> None:
    """Keeps what `pictures.collect` gave.

    Args:
      workdir: of the run.
      arrays: by name.
    """
    _save(workdir / _PICTURES, arrays)


def save_detections(workdir: Place, arrays: dict[str, np.ndarray]) -> None:
    """Keeps what a detector found, as `detected` reads it.

    Args:
      workdir: of the run.
      arrays: by name.
    """
    _save(workdir / _DETECTIONS, arrays)


def _save(path: Place, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    files.replace(path, files.as_npz(arrays, compressed=True))


def save_facts(workdir: Place, facts: dict[str, Any]) -> None:
    """Keeps `facts`, with the step at which they held.

    Args:
      workdir: of the run.
      facts: by heading; what JSON can hold.
    """
    rows, before = metrics.read(workdir), _facts_of(workdir)
    facts = facts | {"step": rows[-1]["step"] if rows else 0}
    if "program" in before and "program" in facts:  # the process that ends has compiled nothing
        facts["program"] = origin.joined(before["program"], facts["program"])
    (workdir / _FACTS).parent.mkdir(exist_ok=True)
    files.replace(workdir / _FACTS, json.dumps(facts, indent=2) + "\n")


def facts(
    context: Context, outcome: str, message: str = "", compiled: Compiled | None = None
) -> dict[str, Any]:
    """How a run ended, on what hardware, with which versions and data: JSON values.

    Args:
      context: of the run.
      outcome: one of OUTCOMES, or 'unfinished' while it goes on.
      message: why it ended, where that needs words.
      compiled: the step, where this process has compiled one.
    """
    device, train = jax.devices()[0], context.data.train
    return {
        "outcome": choose("outcome", outcome, (*OUTCOMES, UNFINISHED)),
        "message": message,
        "steps": context.steps,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": origin.command_line(),
        "recipe": getattr(context.task, "recipe", ""),
        "program": origin.program(compiled),
        "hardware": {
            "platform": device.platform,
            "devices": f"{jax.device_count()} x {device.device_kind}",
            "processes": jax.process_count(),
            "CPU cores of a host": os.cpu_count(),
            "system": platform.platform(),
        },
        "versions": {"Python": platform.python_version(), "moco_jax": __version__}
        | ({"commit": commit} if (commit := origin.commit()) else {})
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "data": {"source": train.name, "images trained on": len(train)}
        | data_facts(context.data)
        | {"channels": train.channels},
    }


def steps(run: Run) -> int:
    """The number of steps that the run is to make; 0 where nothing tells it."""
    if run.facts:
        return run.facts["steps"]
    row = next((row for row in reversed(run.rows) if row.get("epoch")), None)
    if row is None or "epochs" not in run.config:
        return 0
    return max(1, round(run.config["epochs"] * row["step"] / row["epoch"]))


def outcome(run: Run) -> str:
    """One of OUTCOMES, or 'unfinished' for a run that goes on or was killed."""
    last = run.rows[-1]["step"] if run.rows else 0
    told = run.facts["outcome"] if run.facts.get("step") == last else "unfinished"
    if last and last >= steps(run) > 0 and told != "diverged":  # found after the last step
        return "complete"
    return told


def times(run: Run) -> list[float]:
    """Seconds spent in training steps up to each row, without evaluation and saving.

    A row without a rate has that of the next one that has it.
    """
    batch, rate, rates = run.config.get("data", {}).get("batch_size", 0), None, []
    for row in reversed(run.rows):
        rate = row.get("images_per_second") or rate
        rates.append(rate)
    before, spent, found = 0, 0.0, []
    for row, rate in zip(run.rows, reversed(rates)):
        if rate:
            spent += batch * (row["step"] - before) / rate
            before = row["step"]
        found.append(spent)
    return found


def seconds(run: Run) -> float:
    """Time spent in training steps, without evaluation and saving."""
    return max(times(run), default=0.0)


def examples(run: Run, evaluation: str = "") -> int:
    """How many images the newest result counts, of kNN or, for "", of a classifier; 0: unknown.

    Args:
      run: whose results are read.
      evaluation: 'knn' or "".
    """
    counts = (
        r["examples"] for r in reversed(run.results)
        if (r["evaluation"] == "knn") == bool(evaluation)
    )  # fmt: skip
    return next(counts, 0)
