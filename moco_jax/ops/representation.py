"""How good features are without labels: their effective rank, alignment and uniformity.

N images, F features. All in float64 on the host: few images, and sums that cancel.
"""

import math

import numpy as np

EPSILON = 1e-7  # of RankMe, added to each singular value's share


def rank_me(features: np.ndarray) -> float:
    """RankMe, the effective rank of features (arXiv:2210.02885, eq. 1 and 2).

    The exponential of the entropy of the singular values, each as a share of their sum.

    Args:
      features: (N, F), not centred.

    Returns:
      From 1 (one direction) to min(N, F) (all alike); 0 where all features are 0.
    """
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum() + EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def alignment(x: np.ndarray, y: np.ndarray) -> float:
    """Mean squared distance of two views' unit features (arXiv:2005.10242, section 4.1.1).

    Args:
      x: (N, F) of any length.
      y: (N, F), row by row of the same images.

    Returns:
      From 0 (both views alike) to 4; 2 where they have nothing in common.
    """
    return float(np.mean(np.sum(np.square(_unit(x) - _unit(y)), axis=1)))


def uniformity(x: np.ndarray, t: float = 2.0) -> float:
    """Logarithm of the mean of exp(-t |a - b|^2) over all pairs of unit features a, b.

    Args:
      x: (N, F) of any length, N at least 2.
      t: of the Gaussian potential; 2 is the paper's (arXiv:2005.10242, section 4.1.2).

    Returns:
      0 where all are alike; the lower, the more evenly they fill the sphere, down to about -2 t.
    """
    unit = _unit(x)
    cosine = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    exponent = -t * (2.0 - 2.0 * cosine)
    top = exponent.max()
    return float(top + math.log(np.mean(np.exp(exponent - top))))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
