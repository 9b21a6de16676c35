"""Signs that a training is not stable, in its curves: spikes, dips, collapse.

MoCo v3 (arXiv:2104.02057, section 4) found that instability is easily missed: the loss hides it, a
dip of the kNN curve shows it, and tens of steps before, a spike of the first layer's gradient.
Every rule goes from row to row of metrics.jsonl, so that a run that goes on is judged as a whole.
"""

import collections
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

WINDOW = 11  # rows whose median a gradient norm is compared with; fewer are no measure
SPIKE = 5.0  # times that median; made runs without trouble stay below 2
DIP = 0.02  # of kNN accuracy below the best before: 2 points; 0.6 are noise of 2,000 images
MEASURED = 3  # values of kNN or RankMe that are no measure yet: these change fast at first
FALL = 0.5  # of the largest RankMe before
COLLAPSED = 1e-3  # feature_std, which is 1 where features fill the sphere and 1e-7 where all agree

Row = dict[str, Any]
Rule = Callable[[float], bool]


class Spike:
    """Whether a value stands out from the median of those before it."""

    def __init__(self) -> None:
        self._recent: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def __call__(self, value: float) -> bool:
        """Judges the next value."""
        known = len(self._recent) == WINDOW
        high = known and value > SPIKE * statistics.median(self._recent)
        self._recent.append(value)
        return high


class Below:
    """Whether a value lies below what the best before it demands."""

    def __init__(self, floor: Callable[[float], float]):
        self._floor, self._best, self._seen = floor, float("-inf"), 0

    def __call__(self, value: float) -> bool:
        """Judges the next value."""
        self._best, self._seen = max(self._best, value), self._seen + 1
        return self._seen > MEASURED and value < self._floor(self._best)


class Sign(NamedTuple):
    """A sign of trouble.

    Attributes:
      title: what it is called.
      columns: of a row; the first that is there is judged.
      rule: makes what says of each value in turn whether it is one of the sign.
    """

    title: str
    columns: tuple[str, ...]
    rule: Callable[[], Rule]


SIGNS = {
    "spike": Sign(
        "spike of the first layer's gradient", ("grad_norm_first_max", "grad_norm_first"), Spike
    ),
    "dip": Sign("dip of kNN", ("knn_top1",), lambda: Below(lambda best: best - DIP)),
    "fall": Sign("fall of RankMe", ("rank_me",), lambda: Below(lambda best: FALL * best)),
    "collapse": Sign("collapse", ("feature_std",), lambda: lambda value: value < COLLAPSED),
}
# Not of a curve: what a method says of its options and data, in the row of step 0.
CAUTION = "caution"
TITLES = {name: sign.title for name, sign in SIGNS.items()} | {CAUTION: "queue above the data"}


def shown(name: str, row: Row) -> tuple[str, float] | None:
    """The column of a row that a sign looks at, and its value; None where there is none.

    Args:
      name: of the sign.
      row: of metrics.jsonl.
    """
    columns = SIGNS[name].columns if name in SIGNS else ()
    pairs = ((column, row.get(column)) for column in columns)
    return next(((column, value) for column, value in pairs if value is not None), None)


class Observer:
    """Says of each row of a run in turn which signs begin in it."""

    def __init__(self) -> None:
        self._rules = {name: sign.rule() for name, sign in SIGNS.items()}
        self._inside: set[str] = set()

    def __call__(self, row: Row) -> list[str]:
        """Names of SIGNS; one that goes on from an earlier row is not told again."""
        if not row["step"]:
            return []  # an untrained network is no measure
        begun = []
        for name, rule in self._rules.items():
            there = shown(name, row)
            if there is None or there[1] != there[1]:  # not measured, or not a number
                continue
            if not rule(there[1]):
                self._inside.discard(name)
            elif name not in self._inside:
                self._inside.add(name)
                begun.append(name)
        return begun


def find(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """All signs of a run: the rows that each begins in, by a name of TITLES."""
    observe, found = Observer(), {}
    for row in rows:
        for name in observe(row) + [CAUTION] * (CAUTION in row.get("signs", ())):
            found.setdefault(name, []).append(row)
    return found
