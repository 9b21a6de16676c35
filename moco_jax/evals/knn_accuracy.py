"""kNN: how good features are, without training anything on them.

N images of the bank (training set), M queries (test set), F features, k neighbours.
"""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from moco_jax import results
from moco_jax.config import ConfigDict
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import Source, Splits
from moco_jax.errors import InputError
from moco_jax.evals.bank import collected
from moco_jax.evals.confusion import confuse, votes
from moco_jax.evals.extraction import Encode, extract
from moco_jax.evals.knn_options import leaves_one_out, pairs_of, resolved
from moco_jax.ops.neighbours import Neighbours, nearest, rank

log = logging.getLogger(__name__)

PROTOCOL = (
    "kNN: vote of the k training images of largest cosine, each weighted by exp(cosine / T) "
    "(arXiv:1805.01978, section 3.4); every image once, without augmentation"
)
_ONE_CLASS = (
    "{}: all labelled images are of one class, so that kNN would be right whatever the features "
    "are: it is not measured"
)
Batches = Callable[..., Prefetcher]


class Score(NamedTuple):
    """Accuracy of one vote: shares of the queries; `top5` is None where 5 classes are all."""

    k: int
    temperature: float
    top1: float
    top5: float | None


class Outcome(NamedTuple):
    """What kNN gave.

    Attributes:
      scores: for each pair of k and temperature, the watched one first.
      bank: N.
      examples: M.
      split: which images the queries are.
      confusion: int64 (C, C), how many queries of a class, by row, the watched vote gave which;
        None of very many classes, or where it was not asked for.
    """

    scores: list[Score]
    bank: int
    examples: int
    split: str
    confusion: np.ndarray | None


def score(
    found: Neighbours,
    labels: np.ndarray,
    truth: np.ndarray,
    pairs: Iterable[tuple[int, float]],
) -> list[Score]:
    """Accuracy of the vote, for each pair of k and temperature.

    Of classes with equal votes, the lowest counts as first; one without a vote is never right.

    Args:
      found: of the queries in the bank, at least the largest k.
      labels: int (N,) of the bank; -1: none.
      truth: int (M,) of the queries.
      pairs: of k and temperature.
    """
    classes = max(int(labels.max()), 0) + 1
    scores = []
    for k, temperature in pairs:
        voted = votes(found, labels, classes, k, temperature)
        before = np.concatenate([rank(shares, truth[part]) for part, shares in voted])
        top5 = float(np.mean(before < 5)) if classes > 5 else None
        scores.append(Score(k, temperature, float(np.mean(before < 1)), top5))
    return scores


def evaluate(
    encode: Encode,
    data: Splits,
    batches: Batches,
    knn: ConfigDict,
    mesh: Mesh,
    watched_only: bool = False,
) -> Outcome:
    """Classifies the test images or, where these have no labels, each training image by the rest.

    Args:
      encode: a batch on the device -> (B, F) float32.
      data: both splits.
      batches: `batches(source, limit=n)` reads a split.
      knn: `config.knn`; k = 0 stands for `default_k`.
      mesh: its devices share the bank.
      watched_only: whether the watched vote is all that is asked for, without confusion.

    Raises:
      InputError: the training images have no labels, or all the same one; or there is no image.
      NotFiniteError: a feature is NaN or infinite.
    """
    if not data.train.labelled:
        raise InputError(f"{data.train.name} has no labels, and kNN classifies by them")
    if text := one_class(data.train):
        raise InputError(text)
    alone = leaves_one_out(data)
    images = batches(data.train, limit=knn.max_train)
    bank, labels = _labelled(*collected(encode, images, knn.max_train or len(data.train)))
    if len(np.unique(labels)) < 2:
        raise InputError(_ONE_CLASS.format(data.train.name))
    if alone:
        queries, truth = bank, labels
    else:
        queries, truth = _labelled(*extract(encode, batches(data.test, limit=knn.max_test)))
    most = len(bank) - alone
    knn = resolved(knn, most)
    pairs = [(min(k, most), temperature) for k, temperature in pairs_of(knn)]
    pairs = pairs[:1] if watched_only else pairs
    found = nearest(queries, bank, max(k for k, _ in pairs), mesh, exclude_self=alone)
    split = f"{data.train.name}, one left out" if alone else data.test.name
    scores = score(found, labels, truth, dict.fromkeys(pairs))
    confusion = None if watched_only else confuse(found, labels, truth, *pairs[0])
    return Outcome(scores, len(bank), len(queries), split, confusion)


def _labelled(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels of images that have a label; InputError where none has."""
    has = labels >= 0
    if not has.any():
        raise InputError("none of the images that kNN is to use has a label")
    return (features, labels) if has.all() else (features[has], labels[has])


def one_class(train: Source) -> str:
    """What is to be said of training images of a single class; "" where there are more.

    The vote is then right whatever the features are: 100% would be no success.
    """
    classes = train.understood.classes
    if classes is None or sum(map(bool, classes.values())) != 1:
        return ""
    return _ONE_CLASS.format(train.name)


def save(workdir: str | os.PathLike, outcome: Outcome, settings: dict[str, Any], seed: int) -> None:
    """Adds the scores to `results.json`.

    Args:
      workdir: where it is.
      outcome: of `evaluate`.
      settings: what made the features: 'encoder', 'features' ...
      seed: of the encoder's training, the only thing random.
    """
    each = [
        (
            settings | {"bank": outcome.bank, "k": k, "temperature": temperature},
            {"top1": top1} if top5 is None else {"top1": top1, "top5": top5},
        )
        for k, temperature, top1, top5 in outcome.scores
    ]
    results.add_each(
        workdir, "knn", each,
        protocol=PROTOCOL, seed=seed, split=outcome.split, examples=outcome.examples,
    )  # fmt: skip
