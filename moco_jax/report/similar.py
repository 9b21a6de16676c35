"""Similar images: the nearest others of some, and how many of them are of the same class.

N images, F features, Q queries, k neighbours
"""

import numpy as np

from moco_jax.data import pipeline
from moco_jax.errors import InputError

_AT_A_TIME = 512  # images whose cosines to all others are held


def queries(labels: np.ndarray, count: int) -> np.ndarray:
    """Which images neighbours are shown of: the same for every run on the same images.

    The first of each class, then the second of each and so on; of more classes than `count` some,
    evenly spaced. Images without labels are evenly spaced themselves.

    Args:
      labels: int (N,), -1 where there is none.
      count: at most so many.

    Returns:
      Rows (Q,), class by class.
    """
    found = np.unique(labels[labels >= 0])
    if not len(found):
        return pipeline.evenly(len(labels), count)
    chosen = found[pipeline.evenly(len(found), count)]
    each = -(-count // len(chosen))
    rows = [np.flatnonzero(labels == label)[:each] for label in chosen]
    in_turn = [row[i] for i in range(each) for row in rows if i < len(row)][:count]
    return np.array(sorted(in_turn, key=lambda row: (labels[row], row)))


def nearest(features: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other images of some of the images, by cosine, the nearest first.

    Args:
      features: (N, F) of any length.
      rows: (Q,) of the queries.
      k: neighbours; all N - 1 others where there are fewer.

    Returns:
      Rows of the neighbours (Q, k) int64 and their cosines (Q, k) float32.

    Raises:
      InputError: there is no other image.
    """
    unit = normalized(features)
    if len(unit) < 2:
        raise InputError("there is only one image")
    k, parts = min(k, len(unit) - 1), []
    for start in range(0, len(rows), _AT_A_TIME):
        part = rows[start : start + _AT_A_TIME]
        cosine = unit[part] @ unit.T
        cosine[np.arange(len(part)), part] = -np.inf
        parts.append(_largest(cosine, k))
    found, cosine = (np.concatenate(column) for column in zip(*parts))
    return found, cosine


def _largest(cosine: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row, the largest first; of equal ones the first comes first."""
    last = np.partition(cosine, -k, axis=1)[:, -k, None]
    # All that may be among them, few, in their order; the rest is not sorted.
    width = int((cosine >= last).sum(1).max())
    order = np.argsort(cosine < last, axis=1, kind="stable")[:, :width]
    values = np.take_along_axis(cosine, order, 1)
    pick = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(order, pick, 1), np.take_along_axis(values, pick, 1)


def precision(features: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Precision at k: the share of an image's k nearest others that are of its class.

    Args:
      features: (N, F).
      labels: int (N,), -1 where there is none.
      k: neighbours, among all others.

    Returns:
      float64 (N,); NaN for images without a label.
    """
    found, _ = nearest(features, np.arange(len(labels)), k)
    share = np.mean(labels[found] == labels[:, None], axis=1)
    return np.where(labels >= 0, share, np.nan)


def normalized(features: np.ndarray) -> np.ndarray:
    """Features (N, F) of length 1."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)
