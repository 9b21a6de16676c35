"""How well each class is told: accuracy of kNN, what it is taken for, precision of neighbours.

C classes, N images
"""

from typing import NamedTuple

import numpy as np

from moco_jax.report import noise
from moco_jax.report.featuremap import class_name
from moco_jax.report.noise import Interval
from moco_jax.report.rundir import Run

_MATRIX = 12  # classes of which a matrix fits a telephone
_WORST = 20  # classes that are listed of more
_TAKEN_FOR = 2  # classes that a class is most often taken for


class ClassLine(NamedTuple):
    """One class.

    Attributes:
      name: of the class.
      images: that kNN classified.
      top1: share of them that it told; None: not measured.
      interval: of that.
      taken_for: (class, images) that it was taken for, the most frequent first.
      precision: of neighbours by features, and by raw pixels; None: not measured.
    """

    name: str
    images: int
    top1: float | None
    interval: Interval | None
    taken_for: tuple[tuple[str, int], ...]
    precision: tuple[float | None, float | None]


class Classes(NamedTuple):
    """All classes, the worst first, or the worst of many; `total` counts all.

    Attributes:
      lines: of the classes.
      total: how many there are.
      precision: mean over images, by features and by raw pixels; None: not measured.
      k: neighbours that it counts.
      among: images that they are of.
      names: of the rows and columns of the matrix.
      matrix: per cent of a class's images that were taken for each; [] of many classes.
    """

    lines: list[ClassLine]
    total: int
    precision: tuple[float | None, float | None]
    k: int
    among: int
    names: list[str]
    matrix: list[list[int]]


def read(run: Run) -> Classes | None:
    """What is known of a run's classes; None where it has kept nothing of them."""
    counts = run.confusion.get("counts")
    labels = run.pictures.get("precision_labels")
    if counts is None and labels is None:
        return None
    found = set() if counts is None else set(np.flatnonzero(counts.sum(1)).tolist())
    found |= set() if labels is None else set(np.unique(labels[labels >= 0]).tolist())
    names = run.confusion.get("class_names", run.pictures.get("class_names", np.array([], str)))
    lines = [_line(run, label, counts, names) for label in sorted(found)]
    lines.sort(
        key=lambda line: np.nan_to_num(line.top1 if line.top1 is not None else np.nan, nan=2)
    )
    small = counts is not None and len(counts) <= _MATRIX
    return Classes(
        lines if len(lines) <= _WORST else lines[:_WORST], len(lines), _precision(run, None),
        int(run.pictures.get("precision_k", 0)), 0 if labels is None else len(labels),
        [class_name(names, i) for i in range(len(counts))] if small else [],
        _per_cent(counts) if small else [],
    )  # fmt: skip


def _line(run: Run, label: int, counts: np.ndarray | None, names: np.ndarray) -> ClassLine:
    row = counts[label] if counts is not None and label < len(counts) else np.zeros(1, int)
    n = int(row.sum())
    top1 = float(row[label] / n) if n else None
    wrong = [(int(row[i]), i) for i in np.argsort(-row, kind="stable") if i != label and row[i]]
    return ClassLine(
        class_name(names, label),
        n,
        top1,
        noise.wilson(top1, n) if n else None,
        tuple((class_name(names, int(i)), count) for count, i in wrong[:_TAKEN_FOR]),
        _precision(run, label),
    )


def _precision(run: Run, label: int | None) -> tuple[float | None, float | None]:
    """The means over images of a class, or of all."""
    labels = run.pictures.get("precision_labels")
    if labels is None:
        return None, None
    has = labels >= 0 if label is None else labels == label
    both = (run.pictures[name][has] for name in ("precision", "pixel_precision"))
    by_features, by_pixels = (float(x.mean()) if len(x) else None for x in both)
    return by_features, by_pixels


def _per_cent(counts: np.ndarray) -> list[list[int]]:
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return np.rint(share).astype(int).tolist()
