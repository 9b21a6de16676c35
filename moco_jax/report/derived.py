"""Columns that follow from others: time, chance of the contrast accuracy, loss above chance."""

from typing import Any

from moco_jax.report import rundir
from moco_jax.report.rundir import Run

CONTRAST_CHANCE, LOSS_GAP, SECONDS = "contrast_chance", "loss_above_chance", "seconds"
_CONTRASTS = ("contrast_top1", "assignment_top1")

Row = dict[str, Any]


def with_columns(run: Run) -> Run:
    """The run with derived columns in its rows; a row has them where it has what they are of."""
    chance, rows = contrast_chance(run.config), []
    for row, time in zip(run.rows, rundir.times(run)):
        more: Row = {SECONDS: time}
        if chance is not None and any(row.get(name) is not None for name in _CONTRASTS):
            more[CONTRAST_CHANCE] = chance
        if "loss" in row and row.get("loss_chance") is not None:
            loss = row["loss"]
            more[LOSS_GAP] = None if loss is None else loss - row["loss_chance"]
        rows.append(row | more)
    return run._replace(rows=rows)


def contrast_chance(config: dict[str, Any]) -> float | None:
    """How often features that say nothing have the right key, or prototype, as the nearest one.

    Args:
      config: of the run; None where its method is not known.
    """
    method, batch = config.get("method", {}), config.get("data", {}).get("batch_size", 0)
    candidates = {
        "moco": 1 + method.get("queue_size", 0),
        "memory_bank": 1 + method.get("queue_size", 0),
        "moco_v3": batch,
        "end_to_end": batch,
        "byol": batch,
        "simclr": 2 * batch - 1,
        "swav": method.get("swav", {}).get("prototypes", 0),
    }
    count = candidates.get(method.get("name"), 0)
    return 1 / count if count > 1 else None
