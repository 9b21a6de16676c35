"""The table of a study: mean and spread over the runs of each member, as Markdown and CSV."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moco_jax import signs
from moco_jax.report import rundir
from moco_jax.report.rundir import Run


class Column(NamedTuple):
    """What the table has of a run.

    Attributes:
      key: in CSV, where the value is as in metrics.jsonl.
      title: in Markdown.
      value: of a run; None where it has none.
      form: of the value in Markdown.
      scale: of it there.
    """

    key: str
    title: str
    value: Callable[[Run], float | None]
    form: str = ".3g"
    scale: float = 1.0


class Row(NamedTuple):
    """A member.

    Attributes:
      name: its name.
      states: of all of its runs, those that have not begun as well.
      runs: those that are complete; the others' figures are of another length.
      published: linear top-1 on ImageNet in per cent; None where no paper has it.
    """

    name: str
    states: Sequence[str]
    runs: Sequence[Run]
    published: float | None


def _last(key: str) -> Callable[[Run], float | None]:
    return lambda run: next((r[key] for r in reversed(run.rows) if r.get(key) is not None), None)


def _first(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.rows[0].get(key) if run.rows else None


def _median(key: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        values = [row[key] for row in run.rows if row.get(key) is not None]
        return statistics.median(values) if values else None

    return value


def _signs(kind: str) -> Callable[[Run], float | None]:
    """How often a sign of trouble began; None where the run does not have what shows it."""

    def value(run: Run) -> float | None:
        if not any(signs.shown(kind, row) for row in run.rows):
            return None
        return float(len(signs.find(run.rows).get(kind, ())))

    return value


COLUMNS = (
    Column("knn_top1", "kNN top-1, %", _last("knn_top1"), ".1f", 100),
    Column("knn_top1_untrained", "untrained, %", _first("knn_top1"), ".1f", 100),
    Column("knn_top1_raw", "raw pixels, %", _first("knn_top1_raw"), ".1f", 100),
    Column("loss", "loss", _last("loss"), ".3f"),
    Column("loss_chance", "chance", _last("loss_chance"), ".3f"),
    Column("rank_me", "RankMe", _last("rank_me"), ".1f"),
    Column("grad_norm_first", "gradient, first layer", _median("grad_norm_first")),
    Column("spikes", "its spikes", _signs("spike"), ".1f"),
    Column("grad_norm_last", "gradient, last layer", _median("grad_norm_last")),
    Column("dips", "kNN dips", _signs("dip"), ".1f"),
    Column("skipped", "skipped steps", _last("skipped"), ".0f"),
)


def _figures(column: Column, row: Row) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of a sample, over the runs that have the value."""
    values = [v for v in map(column.value, row.runs) if v is not None]
    spread = statistics.stdev(values) if len(values) > 1 else None
    return (statistics.fmean(values) if values else None), spread


def _status(row: Row) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(row.states).items())


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each member: name, states, n, and of each column mean and spread."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{c.key}_{what}" for c in COLUMNS for what in ("mean", "spread")]
    writer.writerow(["member", "runs", "n", "published_linear_top1", *heads])
    for row in rows:
        figures = [figure for column in COLUMNS for figure in _figures(column, row)]
        writer.writerow([row.name, _status(row), len(row.runs), row.published, *figures])
    return out.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """The same for reading: mean ± spread, without columns that are empty."""
    cells = {"member": [row.name for row in rows], "n": [str(len(row.runs)) for row in rows]}
    for column in COLUMNS:
        texts = [_text(column, *_figures(column, row)) for row in rows]
        if any(texts):
            cells[column.title] = texts
    if any(row.published is not None for row in rows):
        published = ["" if row.published is None else f"{row.published:.1f}" for row in rows]
        cells["published linear top-1, %"] = published
    cells["runs"] = [_status(row) for row in rows]
    lines = [list(cells), ["---"] * len(cells), *map(list, zip(*cells.values()))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(column: Column, mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    text = f"{mean * column.scale:{column.form}}"
    return text if spread is None else f"{text} ± {spread * column.scale:{column.form}}"


def read(name: str, runs: Sequence[tuple[str, str]], published: float | None) -> Row:
    """A member's row.

    Args:
      name: of the member.
      runs: workdir and state of each.
      published: see `Row`.
    """
    done = [workdir for workdir, state in runs if state == "complete"]
    return Row(name, [state for _, state in runs], rundir.read_all(done), published)
