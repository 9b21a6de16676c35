"""The curves of runs as plotly figures: plain dicts, drawn in the browser by plotly.js."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from moco_jax import signs
from moco_jax.report.charts import GROUPS, LOSSES, Curve, Group
from moco_jax.report.derived import LOSS_GAP, SECONDS
from moco_jax.report.rundir import Run

# Told apart on white and on black, and by people who see few colours; the runs in turn.
COLOURS = (
    "#3b82d6", "#e07b28", "#2a9d6f", "#c4559b", "#8b6fd6", "#b8902c", "#3fa3b8", "#d8504d",
    "#7a8c2e", "#8c6d5a",
)  # fmt: skip
_DASHES = ("solid", "dot", "dashdot", "longdashdot")
AXES = ("step", "epoch", SECONDS)
_POINTS = 2000  # of a curve that are drawn
_MARKED = 25  # a curve of at most so many points shows each
_NOT_DRAWN = ("step", "epoch", "time", SECONDS, "skipped", "skipped_in_a_row")
_ACCURACIES = {
    rank: re.compile(rf"(^|_){name}(_|/|$)")
    for rank, name in (("top-1", "top1"), ("top-5", "top5"))
}

Figure = dict[str, Any]


def groups(runs: Sequence[Run]) -> list[Group]:
    """The charts that these runs have values for; columns that no chart knows come last."""
    found = _columns(runs)
    known = {curve.column for group in GROUPS for curve in group.curves}
    other = [name for name in found if name not in known]
    # Of several runs the chances differ.
    left_out = LOSSES[len(runs) > 1 and LOSS_GAP in found]
    shown = [g for g in GROUPS if g is not left_out and any(c.column in found for c in g.curves)]
    for rank, pattern in reversed(_ACCURACIES.items()):
        if names := [name for name in other if pattern.search(name)]:
            curves = (Curve(n, n, _DASHES[i % len(_DASHES)]) for i, n in enumerate(names))
            shown.insert(1, Group(f"Accuracy, {rank}", rank, "", tuple(curves), share=True))
        other = [name for name in other if name not in names]
    return shown + [Group(f"Other: {name}", name, "", (Curve(name, name),)) for name in other]


def _columns(runs: Sequence[Run]) -> dict[str, None]:
    """Names of the columns that hold numbers, in order of appearance."""
    return {
        name: None
        for run in runs
        for row in run.rows
        for name, value in row.items()
        if isinstance(value, int | float) and name not in _NOT_DRAWN
    }


def present(group: Group, runs: Sequence[Run]) -> list[Curve]:
    """The curves of a chart that some run has values for.

    Args:
      group: the chart.
      runs: that it shows.
    """
    found = _columns(runs)
    return [curve for curve in group.curves if curve.column in found]


def figure(group: Group, runs: Sequence[Run]) -> Figure:
    """A chart of all runs: plotly's `data` and `layout`.

    Args:
      group: the chart.
      runs: that it shows.
    """
    data = []
    for number, run in enumerate(runs):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        traces = [_trace(group, curve, run, number, prefix) for curve in group.curves]
        if group in LOSSES:
            traces.append(_skipped(run, number, prefix))
        data += [trace for trace in traces + _signs(group, run, number, prefix) if trace]
    y = {"title": {"text": escape(group.unit)}, "automargin": True}
    if group.log:
        y |= {"type": "log", "tickformat": ".3~g", "nticks": 3}
    if group.share:
        y |= {"tickformat": ".3~%"}
    if group.share or group.bounded:
        y |= {"autorangeoptions": {"clipmin": 0, "clipmax": 1}}
    if group.reaches:
        low = {"clipmin": 0} if 0 in group.reaches else {}
        y["autorangeoptions"] = y.get("autorangeoptions", low) | {"include": list(group.reaches)}
    last = max((x for trace in data for x in trace["x"]), default=0)
    x = {"title": {"text": "step"}, "range": [0, last or 1]}
    layout = {"xaxis": x, "yaxis": y, "hovermode": "x unified"}
    if group in LOSSES:
        layout["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False}
    return {"data": data, "layout": layout}


def _trace(group: Group, curve: Curve, run: Run, number: int, prefix: str) -> Figure | None:
    rows = [row for row in run.rows if curve.column in row]
    if curve.level:
        if not rows or rows[0]["step"] != 0 or rows[0][curve.column] is None:
            return None
        ends = (run.rows[0], run.rows[-1])
        rows = [row | {curve.column: rows[0][curve.column]} for row in ends]
    if not rows:
        return None
    keep = thin([row[curve.column] for row in rows])
    floor = curve.level or curve.dash == "dash"
    form = ".1%" if group.share else ".4~g"
    return _base(number, prefix + curve.label, [rows[i] for i in keep]) | {
        "y": [rows[i][curve.column] for i in keep],
        "mode": "lines+markers" if len(rows) <= _MARKED and not floor else "lines",
        "line": {"color": _colour(number), "dash": curve.dash, "width": 1.5 if floor else 2},
        "marker": {"size": 5},
        "opacity": 0.75 if floor else 1,
        "connectgaps": False,
        "cliponaxis": False,
        "hovertemplate": f"%{{y:{form}}}",
    }


def _base(number: int, name: str, rows: list[dict[str, Any]]) -> Figure:
    """What all traces of a run have; `meta` holds all horizontal axes."""
    axes = {axis: [row.get(axis) for row in rows] for axis in AXES}
    axes[SECONDS] = [None if t is None else round(t, 1) for t in axes[SECONDS]]
    return {
        "type": "scatter",
        "name": escape(name, quote=False),
        "legendgroup": f"run{number}",
        "x": axes["step"],
        "meta": axes,
    }


def _skipped(run: Run, number: int, prefix: str) -> Figure | None:
    """Crosses at the foot of the chart, at rows before which steps were skipped."""
    counts = [row.get("skipped") or 0 for row in run.rows]
    new = np.diff(counts, prepend=0).tolist()
    at = [i for i, more in enumerate(new) if more > 0]
    if not at:
        return None
    return _base(number, prefix + "skipped", [run.rows[i] for i in at]) | {
        "y": [0.03] * len(at),
        "yaxis": "y2",
        "mode": "markers",
        "marker": {"symbol": "x", "size": 9, "color": _colour(number)},
        "text": [f"{new[i]} step{'s' * (new[i] > 1)} skipped" for i in at],
        "hovertemplate": "%{text}",
    }


def _signs(group: Group, run: Run, number: int, prefix: str) -> list[Figure]:
    """Triangles where signs of trouble begin that this chart shows."""
    columns = {curve.column for curve in group.curves if not curve.level}
    traces = []
    for name, rows in signs.find(run.rows).items():
        marks = [(row, there) for row in rows if (there := signs.shown(name, row))]
        marks = [(row, value) for row, (column, value) in marks if column in columns]
        title = signs.TITLES[name]
        if marks:
            traces.append(_base(number, prefix + title, [row for row, _ in marks]) | {
                "y": [value for _, value in marks],
                "mode": "markers",
                "marker": {"symbol": "triangle-down", "size": 12, "color": _colour(number)},
                "cliponaxis": False,
                "text": [title] * len(marks),
                "hovertemplate": "%{text}",
            })  # fmt: skip
    return traces


def thin(values: Sequence[float | None], limit: int = _POINTS) -> list[int]:
    """Which of many points to draw: of each stretch the lowest, the highest and a gap.

    Args:
      values: of the curve; None is a gap.
      limit: all points are kept up to so many.

    Returns:
      Their positions, rising.
    """
    if len(values) <= limit:
        return list(range(len(values)))
    y = np.array([np.nan if value is None else value for value in values], np.float64)
    keep = {0, len(y) - 1}
    for stretch in np.array_split(np.arange(len(y)), limit // 2):
        part = y[stretch]
        gaps = np.isnan(part)
        if gaps.any():
            keep.add(int(stretch[np.argmax(gaps)]))
        if not gaps.all():
            keep |= {int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])}
    return sorted(keep)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
