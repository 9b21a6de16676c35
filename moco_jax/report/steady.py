"""Charts that would show a straight line: a sentence says as much."""

from collections.abc import Sequence

from moco_jax.report.curves import Group
from moco_jax.report.rundir import Run


def parted(groups: Sequence[Group], runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The charts worth drawing, and a sentence for each of the others.

    A chart is a sentence where no curve of it has two different values in any run.

    Args:
      groups: the charts.
      runs: that they show.
    """
    drawn, sentences = [], []
    for group in groups:
        if any(len(values) > 1 for run in runs for _, values in _values(group, run)):
            drawn.append(group)
        else:
            sentences += _sentences(group, runs)
    return drawn, sentences


def _values(group: Group, run: Run) -> list[tuple[str, set[float | None]]]:
    """The labels of the curves that a run has, and their different values; a gap is one."""
    found = ((c, {row[c.column] for row in run.rows if c.column in row}) for c in group.curves)
    return [(c.label, values) for c, values in found if values and not c.level]


def _sentences(group: Group, runs: Sequence[Run]) -> list[str]:
    labels = dict.fromkeys(label for run in runs for label, _ in _values(group, run))
    return [_sentence(group, label, runs) for label in labels]


def _sentence(group: Group, label: str, runs: Sequence[Run]) -> str:
    """'EMA coefficient: 0.99', and of several runs which has what."""
    name = group.title if len(group.curves) == 1 else f"{group.title}, {label}"
    who: dict[str, list[str]] = {}
    for run in runs:
        if values := dict(_values(group, run)).get(label):
            who.setdefault(_text(group, *values), []).append(run.name)
    if sum(map(len, who.values())) == len(runs) and len(who) == 1:
        return f"{name}: {next(iter(who))}"
    return f"{name}: " + "; ".join(f"{text} ({', '.join(names)})" for text, names in who.items())


def _text(group: Group, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.1%}" if group.share else f"{value:.6g}"
