"""Features of a data set: the one loop over evaluation batches.

N images, F features.
"""

from collections.abc import Callable

import jax
import numpy as np

from moco_jax.data.prefetch import Prefetcher


def extract(
    encode: Callable[[dict[str, jax.Array]], jax.Array], batches: Prefetcher
) -> tuple[np.ndarray, np.ndarray]:
    """Runs `encode` over padded batches and drops the padding.

    Args:
      encode: a batch on the device -> (B, F) float32.
      batches: evaluation batches on the device; closed at the end.

    Returns:
      Features (N, F) float32 and labels (N,) int32, in the batches' order.
    """
    features, labels = [], []
    with batches:
        for batch in batches:
            mask = np.asarray(batch["mask"])
            features.append(np.asarray(encode(batch))[mask])
            labels.append(np.asarray(batch["label"])[mask])
    return np.concatenate(features), np.concatenate(labels)
