"""What a detector found, as the page shows it: pictures beside the truth, precision and recall.

K classes
"""

from html import escape
from typing import Any

import numpy as np

from moco_jax.report.curves import COLOURS, Figure
from moco_jax.report.datauri import jpeg_uri
from moco_jax.report.rundir import Run

_DASHES = ("solid", "dot", "dash", "dashdot")  # the colours once more, in another line
_CLASSES = len(COLOURS) * len(_DASHES)  # that are drawn


def pairs(run: Run) -> list[dict[str, str]]:
    """Images with their truth and what was found: `name`, `truth` and `found`."""
    names = run.detections.get("names", np.array([], str)).tolist()
    return [
        {"name": name} | {what: _source(run, f"{what}{i}") for what in ("truth", "found")}
        for i, name in enumerate(names)
    ]


def _source(run: Run, key: str) -> str:
    return jpeg_uri(run.detections[key].tobytes())


def figure(run: Run) -> Figure | None:
    """A curve for each class that is to be found, the first of many; None where there is none."""
    precision = run.detections.get("precision", np.zeros((0, 0)))
    there = np.flatnonzero(~np.isnan(precision).all(1))[:_CLASSES].tolist()
    if not there:
        return None
    names = run.detections["class_names"].tolist()
    data = [_curve(names[k], precision[k], place) for place, k in enumerate(there)]
    axis = {"range": [0, 1.02], "tickformat": ".0%", "automargin": True}
    layout = {
        "xaxis": axis | {"title": {"text": "recall"}},
        "yaxis": axis | {"title": {"text": "precision"}},
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def _curve(name: str, precision: np.ndarray, place: int) -> dict[str, Any]:
    turn, colour = divmod(place, len(COLOURS))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(name, quote=False),
        "x": np.linspace(0, 1, len(precision)).round(4).tolist(),
        "y": [round(float(y), 4) for y in precision],
        "legendgroup": f"class{place}",
        "line": {"color": COLOURS[colour], "dash": _DASHES[turn], "width": 2},
        "hovertemplate": "%{fullData.name}: precision %{y:.1%} at recall %{x:.0%}<extra></extra>",
    }
