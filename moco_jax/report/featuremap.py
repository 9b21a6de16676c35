"""The map of features as a plotly figure, coloured by label."""

from html import escape
from typing import NamedTuple

import numpy as np

from moco_jax.report.curves import COLOURS, Figure

_CLASSES = len(COLOURS)  # that have a colour of their own
OTHER = "#8d939b"


class Class(NamedTuple):
    """An entry of the legend: a class, or what has no colour of its own."""

    group: str
    name: str
    colour: str
    count: int


def class_name(names: np.ndarray, label: int) -> str:
    """The name of a label; '' for an image without one.

    Args:
      names: of the classes.
      label: of the image; -1: none.
    """
    if label < 0:
        return ""
    return str(names[label]) if label < len(names) else f"class {label}"


def classes(labels: np.ndarray, names: np.ndarray) -> list[tuple[Class, np.ndarray]]:
    """The legend, and the rows of each entry: at most ten classes, the most frequent ones.

    Args:
      labels: int (N,), -1 where there is none.
      names: of the classes; may be empty.
    """
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    chosen = np.sort(found[np.argsort(-counts, kind="stable")[:_CLASSES]])
    entries = [
        (class_name(names, label), COLOURS[i], np.flatnonzero(labels == label))
        for i, label in enumerate(chosen.tolist())
    ]
    rest = np.flatnonzero(~np.isin(labels, chosen))
    if len(rest):
        text = f"{len(found) - len(chosen)} other classes" if len(found) else "no labels"
        entries.insert(0, (text, OTHER, rest))
    return [
        (Class(f"class{i}", name, colour, len(rows)), rows)
        for i, (name, colour, rows) in enumerate(entries)
    ]


def figure(pictures: dict[str, np.ndarray]) -> tuple[Figure, list[Class]]:
    """The map: plotly's `data` and `layout`, and its legend."""
    points = pictures["map"]
    # Pictures of earlier runs have numbers instead.
    names = pictures.get("map_names", pictures.get("map_index"))
    entries = classes(pictures["map_labels"], pictures["class_names"])
    data = [_trace(entry, points[rows], names[rows], rows) for entry, rows in entries]
    layout = {
        "xaxis": {"visible": False},
        "yaxis": {"visible": False, "scaleanchor": "x"},
        "hovermode": "closest",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    }
    legend = sorted((entry for entry, _ in entries), key=lambda entry: entry.colour == OTHER)
    return {"data": data, "layout": layout}, legend


def _trace(entry: Class, points: np.ndarray, names: np.ndarray, rows: np.ndarray) -> Figure:
    return {
        "customdata": rows.tolist(),  # where the thumbnails are in the sheet
        "type": "scatter",
        "mode": "markers",
        "name": escape(entry.name, quote=False),
        "legendgroup": entry.group,
        "x": np.round(points[:, 0].astype(float), 2).tolist(),
        "y": np.round(points[:, 1].astype(float), 2).tolist(),
        "text": [escape(f"image {name}", quote=False) for name in names.tolist()],
        "marker": {"size": 5, "color": entry.colour, "opacity": 0.8},
        "hovertemplate": "%{fullData.name}<br>%{text}<extra></extra>",
    }
