"""Nearest neighbours as the page shows them: of one run, or of several side by side."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco_jax.report.datauri import data_uri
from moco_jax.report.featuremap import class_name
from moco_jax.report.rundir import Run

_FEW = 5  # neighbours of each of several runs

Pictures = dict[str, np.ndarray]
Shown = dict[str, Any]


def neighbours(pictures: Pictures, most: int = 0) -> list[Shown]:
    """Queries, each with rows of neighbours: by features and, where there are such, by raw pixels.

    `right` of a neighbour is None where there are no labels.

    Args:
      pictures: of a run.
      most: neighbours of a query that are shown; 0: all.
    """
    if "queries" not in pictures:
        return []
    # Pictures of earlier runs have no names.
    names = pictures.get("query_names", np.full(len(pictures["queries"]), ""))
    labels = pictures["query_labels"].tolist()
    shown = []
    for q, (name, label) in enumerate(zip(names.tolist(), labels)):
        rows = [{"by": "features", "found": _found(pictures, "", q, most)}]
        if "pixel_neighbours" in pictures:
            rows.append({"by": "raw pixels", "found": _found(pictures, "pixel_", q, most)})
        shown.append({"query": _image(pictures, pictures["queries"][q], label, name), "rows": rows})
    return shown


def side_by_side(runs: Sequence[Run]) -> list[Shown]:
    """The same queries, each with a row of every run; [] where the runs' queries differ."""
    shown = [run for run in runs if "query_names" in run.pictures]
    asked = [[str(run.pictures["split"]), *run.pictures["query_names"].tolist()] for run in shown]
    if len(shown) < 2 or asked != asked[:1] * len(asked):
        return []
    first = neighbours(shown[0].pictures, _FEW)
    numbers = [number for number, run in enumerate(runs) if "query_names" in run.pictures]
    return [
        {
            "query": query["query"],
            "rows": [
                {"run": number, "found": _found(run.pictures, "", q, _FEW)}
                for number, run in zip(numbers, shown)
            ],
        }
        for q, query in enumerate(first)
    ]


def _found(pictures: Pictures, prefix: str, q: int, most: int) -> list[Shown]:
    images = pictures[f"{prefix}neighbours"][q]
    names = pictures.get(f"{prefix}neighbour_names")
    files = [""] * len(images) if names is None else names[q].tolist()
    labels = pictures[f"{prefix}neighbour_labels"][q].tolist()
    truth = int(pictures["query_labels"][q])
    columns = zip(images, labels, files, pictures[f"{prefix}cosine"][q].tolist())
    return [
        _image(pictures, image, label, file)
        | {"cosine": cosine, "right": label == truth if truth >= 0 else None}
        for image, label, file, cosine in list(columns)[: most or None]
    ]


def _image(pictures: Pictures, image: np.ndarray, label: int, file: str) -> Shown:
    place = str(pictures.get("place", ""))
    return {
        "src": data_uri(image),
        "name": class_name(pictures["class_names"], label),
        "file": file,
        "link": pathlib.Path(place, file).as_uri() if place and file else "",
    }
