"""results.json: what evaluations gave, each with what is needed to repeat it."""

import datetime
import json
import os
from collections.abc import Sequence
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
    (record,) = add_each(
        workdir, evaluation, [(settings, metrics)],
        protocol=protocol, seed=seed, split=split, examples=examples,
    )  # fmt: skip
    return record


def add_each(
    workdir: str | os.PathLike | BucketPath,
    evaluation: str,
    each: Sequence[tuple[dict[str, Any], dict[str, float]]],
    *,
    protocol: str,
    seed: int,
    split: str,
    examples: int,
) -> list[dict[str, Any]]:
    """As `add`, for results that share all but settings and metrics: the file is written once.

    Args:
      workdir: of the run.
      evaluation: see `add`, as for what follows.
      each: settings and metrics of each.
      protocol: of all.
      seed: of all.
      split: of all.
      examples: of all.

    Returns:
      The records.

    Raises:
      StorageError: the file cannot be written.
    """
    common = {
        "evaluation": evaluation, "protocol": protocol, "seed": seed, "split": split,
        "examples": examples, "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    records = [
        common | {"settings": json.loads(json.dumps(settings)), "metrics": metrics}
        for settings, metrics in each
    ]
    path = place("workdir", workdir) / FILE
    before = read(workdir)
    if not before and files.read(path, missing=b"").strip() not in (b"", b"[]"):
        files.set_aside(path)
    new = [_key(record) for record in records]
    others = [record for record in before if _key(record) not in new]
    files.write(path, json.dumps([*others, *records], indent=2) + "\n")
    return records


def _key(record: dict[str, Any]) -> list[Any]:
    """What makes a result that same result, measured again."""
    return [record[key] for key in ("evaluation", "settings", "seed", "split")]


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
