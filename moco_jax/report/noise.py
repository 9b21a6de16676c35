"""How far a share measured on n images is to be trusted: 95% intervals.

p share, n images
"""

import math
from typing import NamedTuple

_Z = 1.959964  # of the normal distribution, 95% two-sided


class Interval(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


def wilson(p: float, n: int) -> Interval:
    """Wilson's interval of a share (JASA 22, 1927): it stays in [0, 1], also for small n.

    Args:
      p: the share that was found.
      n: of how many, at least 1.
    """
    middle, z2 = p + _Z**2 / (2 * n), _Z**2
    half = _Z * math.sqrt(max(p * (1 - p), 0) / n + z2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z2 / n) for side in (-1, 1))
    return Interval(max(low, 0.0), min(high, 1.0))


def difference(p1: float, n1: int, p2: float, n2: int) -> Interval:
    """The interval of p1 - p2 of two samples, from Wilson's of each.

    Method 10 of Newcombe (Statistics in Medicine 17, 1998). For two classifiers on the same images,
    which mostly are right on the same ones, it is wider than need be.

    Args:
      p1: a share, of n1.
      n1: at least 1.
      p2: another, of n2.
      n2: at least 1.
    """
    (l1, u1), (l2, u2) = wilson(p1, n1), wilson(p2, n2)
    d = p1 - p2
    return Interval(d - math.hypot(p1 - l1, u2 - p2), d + math.hypot(u1 - p1, p2 - l2))


def within(p1: float, n1: int, p2: float, n2: int) -> bool:
    """Whether two shares may differ by chance alone: 0 is in the interval of their difference.

    Args:
      p1: share of the first, in [0, 1].
      n1: examples that it is of.
      p2: share of the second.
      n2: examples that it is of.
    """
    low, high = difference(p1, n1, p2, n2)
    return low <= 0 <= high
