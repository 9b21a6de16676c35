"""Several runs as a table: what came out of each, the best first by the reader's metric."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from moco_jax.metrics import duration
from moco_jax.report import applies, noise, rundir
from moco_jax.report.derived import LOSS_GAP
from moco_jax.report.rundir import Run

_BRIEF = 6  # options that differ: more of them stand below, not in the table


class Metric(NamedTuple):
    """What runs can be ordered by.

    Attributes:
      key: a column of metrics.jsonl, or a derived one.
      title: in the table.
      form: of its value.
      least: whether the least is the best.
    """

    key: str
    title: str
    form: str
    least: bool = False


METRICS = (
    Metric("test_top1", "Test top-1", ".1%"),
    Metric("knn_top1", "kNN top-1", ".1%"),
    Metric(LOSS_GAP, "Loss above chance", "+.3f", least=True),
    Metric("rank_me", "Effective rank", ".1f"),
)


class Entry(NamedTuple):
    """A line of the table.

    Attributes:
      number: of the run, in the order that was asked for.
      values: of each metric, by its key; None where the run has none.
      texts: the same, as they are shown.
      progress: steps, and epochs.
      time: of training.
      options: those that differ, in the order of the table's.
    """

    number: int
    values: dict[str, float | None]
    texts: dict[str, str]
    progress: str
    time: str
    options: tuple[Any, ...]


class Table(NamedTuple):
    """All runs; `metrics` are those that some run has, `more` counts options left out."""

    metrics: tuple[Metric, ...]
    options: tuple[str, ...]
    more: int
    entries: list[Entry]


def table(runs: Sequence[Run]) -> Table:
    """The table, ordered by the first metric that runs have; rows have derived columns."""
    found = [{m.key: _last(run, m.key) for m in METRICS} for run in runs]
    metrics = tuple(m for m in METRICS if any(values[m.key] is not None for values in found))
    differ = applies.differences([run.config for run in runs])
    names = tuple(differ)[:_BRIEF]
    entries = [
        Entry(
            number,
            values,
            {m.key: _text(m, number, found, runs) for m in metrics},
            _progress(run),
            duration(rundir.seconds(run)) if rundir.seconds(run) else "",
            tuple(differ[name][number] for name in names),
        )
        for number, (run, values) in enumerate(zip(runs, found))
    ]
    if metrics:
        entries.sort(key=lambda entry: _place(entry.values[metrics[0].key], metrics[0].least))
    return Table(metrics, names, len(differ) - len(names), entries)


def _last(run: Run, key: str) -> float | None:
    return next((row[key] for row in reversed(run.rows) if row.get(key) is not None), None)


def _place(value: float | None, least: bool) -> tuple[bool, float]:
    """What entries are sorted by: the best first, those without a value last."""
    return value is None, 0.0 if value is None else value if least else -value


def _text(
    metric: Metric, number: int, found: Sequence[dict[str, float | None]], runs: Sequence[Run]
) -> str:
    """The value; of an accuracy also whether it is within noise of the best one."""
    value = found[number][metric.key]
    if value is None:
        return "–"
    text = f"{value:{metric.form}}"
    values = [v for v in (values[metric.key] for values in found) if v is not None]
    best = max(values)
    n = {"knn_top1": "knn", "test_top1": ""}.get(metric.key)
    sizes = [rundir.examples(run, n) for run in runs] if n is not None else []
    if not sizes or not sizes[number] or value == best:
        return text
    size = sizes[[values[metric.key] for values in found].index(best)]
    return text + " ≈" * bool(size and noise.within(value, sizes[number], best, size))


def _progress(run: Run) -> str:
    last = run.rows[-1] if run.rows else {"step": 0}
    epochs = f" ({last['epoch']:.4g} epochs)" if last.get("epoch") else ""
    return f"{last['step']:,}{epochs}"
