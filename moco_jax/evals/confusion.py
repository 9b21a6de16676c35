"""How kNN votes on many queries, and which classes it takes for which.

N images of the bank, M queries, C classes.
"""

from collections.abc import Iterator

import numpy as np

from moco_jax.ops.neighbours import Neighbours, vote

FILE = "knn_confusion.npz"  # in a workdir: `counts`, and `class_names`
CLASSES = 1000  # of a matrix, at most
_AT_A_TIME = 4096  # queries whose votes are counted together


def votes(
    found: Neighbours, labels: np.ndarray, classes: int, k: int, temperature: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """`vote` of the k nearest of all queries, some at a time: their rows, and shares (m, C).

    Args:
      found: of the queries in the bank, at least k.
      labels: int (N,) of the bank; -1: none.
      classes: C.
      k: neighbours that vote.
      temperature: of the weights.
    """
    for start in range(0, len(found.index), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        yield (
            part,
            vote(found.cosine[part, :k], labels[found.index[part, :k]], classes, temperature),
        )


def confuse(
    found: Neighbours, labels: np.ndarray, truth: np.ndarray, k: int, temperature: float
) -> np.ndarray | None:
    """Which class the vote gives to the queries of which: int64 (C, C), a row for each true class.

    Its diagonal are those that `knn_accuracy.score` counts as right. None of more than CLASSES.

    Args:
      found: of the queries in the bank.
      labels: int (N,) of the bank; -1: none.
      truth: int (M,) of the queries; without a label a query is left out.
      k: neighbours that vote.
      temperature: of the vote.
    """
    classes = int(max(labels.max(), truth.max())) + 1
    if not 0 < classes <= CLASSES:
        return None
    voted = [part.argmax(1) for _, part in votes(found, labels, classes, k, temperature)]
    has = truth >= 0
    cells = classes * truth[has].astype(np.int64) + np.concatenate(voted)[has]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)
