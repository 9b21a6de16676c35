"""The curves of runs as plotly figures: plain dicts, drawn in the browser by plotly.js."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from moco_jax.report.rundir import Run

# Told apart on white and on black, and by people who see few colours; the runs in turn.
COLOURS = (
    "#3b82d6", "#e07b28", "#2a9d6f", "#c4559b", "#8b6fd6", "#b8902c", "#3fa3b8", "#d8504d",
    "#7a8c2e", "#8c6d5a",
)  # fmt: skip
_DASHES = ("solid", "dot", "dashdot", "longdashdot")
_POINTS = 2000  # of a curve that are drawn
_MARKED = 25  # a curve of at most so many points shows each
_NOT_DRAWN = ("step", "epoch", "time", "skipped", "skipped_in_a_row")
_ACCURACIES = {
    rank: re.compile(rf"(^|_){name}(_|/|$)")
    for rank, name in (("top-1", "top1"), ("top-5", "top5"))
}

Figure = dict[str, Any]


class Curve(NamedTuple):
    """A column of metrics.jsonl in a chart.

    Attributes:
      column: its name there.
      label: in the legend.
      dash: of the line, as plotly calls it.
      level: only its value at step 0 is drawn, as a line across the chart.
    """

    column: str
    label: str
    dash: str = "solid"
    level: bool = False


class Group(NamedTuple):
    """A chart.

    Attributes:
      title: above it.
      unit: at its vertical axis.
      note: one sentence on what to look for.
      curves: what it shows.
      log: whether the vertical axis is logarithmic.
      bounded: whether values are in [0, 1].
      share: whether they are shown in per cent; they are in [0, 1] then.
    """

    title: str
    unit: str
    note: str
    curves: tuple[Curve, ...]
    log: bool = False
    bounded: bool = False
    share: bool = False


GROUPS = (
    Group(
        "Loss", "nats",
        "Chance: what a network that knows nothing would have.",
        (Curve("loss", "loss"), Curve("loss_chance", "chance", "dash")),
    ),
    Group(
        "kNN accuracy", "top-1",
        "Below raw pixels, the features tell less than the images themselves.",
        (
            Curve("knn_top1", "features"),
            Curve("knn_top1", "before training", "dash", level=True),
            Curve("knn_top1_raw", "raw pixels", "dot", level=True),
        ),
        share=True,
    ),
    Group(
        "Contrast accuracy", "top-1", "How often the right key, or prototype, is the nearest one.",
        (
            Curve("contrast_top1", "right key is nearest"),
            Curve("assignment_top1", "the other view's prototype is nearest", "dash"),
        ),
        share=True,
    ),
    Group(
        "Spread of features", "standard deviation",
        "1: the features fill the sphere. 0: they have collapsed.",
        (
            Curve("feature_std", "the method's, in training"),
            Curve("backbone_std", "the backbone's, of test images", "dot"),
        ),
        bounded=True,
    ),
    Group(
        "Effective rank", "RankMe",
        "How many directions the backbone's features use: it falls when they collapse.",
        (Curve("rank_me", "backbone's features"),),
    ),
    Group(
        "Alignment and uniformity", "the lower the better",
        "Alignment: how far apart two views of an image are. Uniformity: how evenly the features "
        "fill the sphere.",
        (Curve("alignment", "alignment"), Curve("uniformity", "uniformity", "dot")),
    ),
    Group(
        "Gradient norm", "L2 norm", "Instability starts as a spike in the first layer.",
        (
            Curve("grad_norm_first", "first layer"),
            Curve("grad_norm_last", "last layer", "dot"),
            Curve("grad_norm", "all layers", "dashdot"),
        ),
        log=True,
    ),
    Group("Learning rate", "learning rate", "", (Curve("learning_rate", "learning rate"),)),
    Group(
        "EMA coefficient", "m", "The share of itself that the momentum encoder keeps in a step.",
        (Curve("ema", "EMA coefficient"),), bounded=True,
    ),
    Group("Throughput", "images / s", "", (Curve("images_per_second", "training"),)),
    Group(
        "Waiting for data", "share of time",
        "Time in which the device had nothing to do: more than a few per cent is worth a look.",
        (Curve("input_wait", "waiting"),), share=True,
    ),
)  # fmt: skip


def groups(runs: Sequence[Run]) -> list[Group]:
    """The charts that these runs have values for; columns that no chart knows come last."""
    found = _columns(runs)
    known = {curve.column for group in GROUPS for curve in group.curves}
    other = [name for name in found if name not in known]
    shown = [g for g in GROUPS if any(curve.column in found for curve in g.curves)]
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


def figure(group: Group, runs: Sequence[Run]) -> Figure:
    """A chart of all runs: plotly's `data` and `layout`."""
    data = []
    for number, run in enumerate(runs):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        traces = [_trace(group, curve, run, number, prefix) for curve in group.curves]
        if group is GROUPS[0]:
            traces.append(_skipped(run, number, prefix))
        data += [trace for trace in traces if trace]
    y = {"title": {"text": escape(group.unit)}, "automargin": True}
    if group.log:
        y |= {"type": "log", "tickformat": ".3~g", "nticks": 3}
    if group.share:
        y |= {"tickformat": ".3~%"}
    if group.share or group.bounded:
        y |= {"autorangeoptions": {"clipmin": 0, "clipmax": 1}}
    x = {"title": {"text": "step"}, "rangemode": "tozero"}
    layout = {"xaxis": x, "yaxis": y, "hovermode": "x unified"}
    if group is GROUPS[0]:
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
    """What all traces of a run have; `meta` holds both horizontal axes."""
    axes = {axis: [row.get(axis) for row in rows] for axis in ("step", "epoch")}
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
