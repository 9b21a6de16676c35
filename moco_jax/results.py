"""results.json: what evaluations gave, each with what is needed to repeat it."""

import datetime
import json
import os
import pathlib
from typing import Any

FILE = "results.json"


def add(
    workdir: str | os.PathLike,
    evaluation: str,
    *,
    protocol: str,
    settings: dict[str, Any],
    seed: int,
    split: str,
    examples: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Adds one result to `workdir/results.json`; the same evaluation done again replaces it.

    Args:
      workdir: of the run.
      evaluation: 'knn', 'linear', 'finetune' ...
      protocol: one sentence of what was done, with its source.
      settings: what changes the figures: checkpoint, learning rate, k ... ; JSON values.
      seed: of everything random in it.
      split: which images were classified, e.g. 'test images of embedded'.
      examples: how many they are.
      metrics: 'top1', 'top5' ..., shares in [0, 1].

    Returns:
      The record, as it stands in the file.
    """
    record = {
        "evaluation": evaluation,
        "protocol": protocol,
        "settings": json.loads(json.dumps(settings)),
        "seed": seed,
        "split": split,
        "examples": examples,
        "metrics": metrics,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    same = ("evaluation", "settings", "seed", "split")
    others = [r for r in read(workdir) if any(r[key] != record[key] for key in same)]
    path = pathlib.Path(workdir) / FILE
    part = path.with_suffix(".part")
    part.write_text(json.dumps([*others, record], indent=2) + "\n")
    part.replace(path)
    return record


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of `workdir/results.json`, oldest first; none where there is no such file."""
    path = pathlib.Path(workdir) / FILE
    return json.loads(path.read_text()) if path.exists() else []
