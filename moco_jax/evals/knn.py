"""The kNN monitor: how good features are, without training anything on them.

N images of the bank (training set), M queries (test set), F features.
"""

import logging
from collections.abc import Callable

import jax
import numpy as np

from moco_jax.config import ConfigDict, choose
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import Splits
from moco_jax.evals.features import extract
from moco_jax.ops.knn import knn_predict

log = logging.getLogger(__name__)
Encode = Callable[[dict[str, jax.Array]], jax.Array]


class KnnMonitor:
    """Measures kNN top-1 on the test images, or leave-one-out on the training images.

    Attributes:
      active: False where there are no labels or `knn.every_epochs` is 0; then every measurement
        is empty.
    """

    def __init__(self, knn: ConfigDict, data: Splits, batches: Callable[..., Prefetcher]):
        """Takes the options, the data and `batches(source, limit=n)`, which reads a split."""
        choose("knn.features", knn.features, ("backbone", "projection"))
        if knn.k < 1 or not knn.temperature > 0:
            raise ValueError(f"knn.k={knn.k} and knn.temperature={knn.temperature}: above 0")
        self._knn, self._data, self._batches = knn, data, batches
        self.active = knn.every_epochs > 0 and data.train.labelled
        self._alone = data.test is None or not data.test.labelled
        if knn.every_epochs > 0 and not data.train.labelled:
            log.info("No labels: kNN is not measured")
        elif self.active and self._alone:
            log.info("No labelled test images: kNN leaves one out of the training images")

    def top1(self, encode: Encode) -> float:
        """Share of queries whose class the vote of the nearest images of the bank gives."""
        k, data = self._knn, self._data
        bank, labels = extract(encode, self._batches(data.train, limit=k.max_train))
        if self._alone:
            queries, truth = bank, labels
        else:
            queries, truth = extract(encode, self._batches(data.test, limit=k.max_test))
        neighbours = min(k.k, len(bank) - self._alone)
        classes = int(labels.max()) + 1
        votes = knn_predict(
            queries, bank, labels, classes, neighbours, k.temperature, exclude_self=self._alone
        )
        return float(np.mean(np.argmax(votes, -1) == truth))

    def measure(self, name: str, encode: Encode) -> dict[str, float]:
        """`top1` under a name, for metrics.jsonl; empty when not active."""
        return {name: self.top1(encode)} if self.active else {}
