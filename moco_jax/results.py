"""results.json: what evaluations gave, each with what is needed to repeat it."""

import datetime
import json
import os
from typing import Any

from moco_jax import __version__, files
from moco_jax.bucket import BucketPath, place

FILE = "results.json"
_KEYS = {
    "evaluation": str, "protocol": str, "settings": dict, "seed": int, "split": str,
    "examples": int, "metrics": dict,
}  # fmt: skip


def add(
    workdir: str | os.PathLike | BucketPath,
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
      The record, as it stands in the file, with the date and this package's version. A damaged
      file is set aside.

    Raises:
      StorageError: the file cannot be written.
    """
    record = {
        "evaluation": evaluation,
        "protocol": protocol,
        "settings": json.loads(json.dumps(settings)),
        "seed": seed,
        "split": split,
        "examples": examples,
        "metrics": metrics,
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    same = ("evaluation", "settings", "seed", "split")
    path = place("workdir", workdir) / FILE
    before = read(workdir)
    if not before and files.read(path, missing=b"").strip() not in (b"", b"[]"):
        files.set_aside(path)
    others = [r for r in before if any(r[key] != record[key] for key in same)]
    files.write(path, json.dumps([*others, record], indent=2) + "\n")
    return record


def read(workdir: str | os.PathLike | BucketPath) -> list[dict[str, Any]]:
    """The records of `workdir/results.json`, oldest first; none where there is no such file.

    None, with a warning, where it is damaged.
    """
    return files.read_json(place("workdir", workdir) / FILE, list, _are_records)


def _are_records(content: list[Any]) -> bool:
    return all(
        isinstance(r, dict)
        and r.keys() >= _KEYS.keys()
        and all(isinstance(r[k], kind) for k, kind in _KEYS.items())
        for r in content
    )
