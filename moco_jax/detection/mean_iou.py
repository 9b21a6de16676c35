"""Mean IoU: how well the classes of pixels are found over a whole set, as VOC and Cityscapes score.

B images, H and W their height and width, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def confusion(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Which class is found at the pixels of which: int32 (K, K), a row for each true class.

    Exact where an image has less than 2^24 pixels and the batch less than 2^31. Of equal logits
    the first counts.

    Args:
      logits: (B, H, W, K).
      labels: (B, H, W) integers, 0 to K - 1 or IGNORED, which counts nowhere.
    """
    classes = logits.shape[-1]
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    # What is no class is a row of zeros. Zeros and ones are exact in bfloat16.
    truth = jax.nn.one_hot(flat(labels).astype(jnp.int32), classes, dtype=jnp.bfloat16)
    found = jax.nn.one_hot(flat(jnp.argmax(logits, -1)), classes, dtype=jnp.bfloat16)
    counts = jnp.einsum("bpt,bpf->btf", truth, found, preferred_element_type=jnp.float32)
    return counts.astype(jnp.int32).sum(0)


class Scores(NamedTuple):
    """How well pixels are found.

    Attributes:
      mean_iou: over the classes that are true or found anywhere; NaN where there are none.
      iou: name of each class -> its own; NaN where it is neither true nor found.
      accuracy: share of the pixels whose class is found; NaN of none.
    """

    mean_iou: float
    iou: dict[str, float]
    accuracy: float


def scores(counts: np.ndarray, names: Sequence[str]) -> Scores:
    """Intersection over union of each class, from the confusion of a whole set.

    Args:
      counts: int64 (K, K), the sum of `confusion` over all images.
      names: K of them.
    """
    counts = np.asarray(counts, np.float64)
    right, total = np.diag(counts), counts.sum()
    union = counts.sum(0) + counts.sum(1) - right
    iou = np.divide(right, union, out=np.full(len(counts), np.nan), where=union > 0)
    there = iou[union > 0]
    return Scores(
        mean_iou=float(there.mean()) if there.size else float("nan"),
        iou=dict(zip(names, iou.tolist(), strict=True)),
        accuracy=float(right.sum() / total) if total else float("nan"),
    )
