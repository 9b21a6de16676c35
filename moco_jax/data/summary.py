"""What was understood of a data set, so that a person sees what is trained on before it is.

Every source fills in an `Understood` for each split; the lines of it go to the log at the start,
and with the run's facts into its report.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

_NAMED = 5  # classes, or kinds of files, that a line names


class LeftOut(dict[str, tuple[int, str]]):
    """What was left out and why: reason -> (how many, the first of them)."""

    def note(self, reason: str, name: str, count: int = 1) -> None:
        """Counts another one, or several of which one has that name.

        Args:
          reason: why.
          name: of what is left out.
          count: how many.
        """
        before, first = self.get(reason, (0, name))
        self[reason] = before + count, min(first, name)

    def add(self, other: Mapping[str, tuple[int, str]]) -> None:
        """Counts all of another."""
        for reason, (count, name) in other.items():
            self.note(reason, name, count)

    def __str__(self) -> str:
        found = sorted(self.items(), key=lambda item: (-item[1][0], item[0]))
        return "; ".join(f"{reason}: {count:,} ({name})" for reason, (count, name) in found)


@dataclasses.dataclass(frozen=True)
class Understood:
    """What was understood of one split.

    Attributes:
      place: which folder, key or split it is.
      images: how many.
      kinds: images by the end of their names, or by their form -> how many.
      labels: where labels come from; "": there are none.
      unlabelled: images without a label, in a split that has some; None: not counted.
      classes: name -> images that have it; None: not counted.
      left_out: what was left out and why.
      notes: what else was decided.
    """

    place: str = ""
    images: int = 0
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    labels: str = ""
    unlabelled: int | None = 0
    classes: Mapping[str, int] | None = None
    left_out: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def labelled(self, by: str, labels: np.ndarray, names: Sequence[str]) -> Self:
        """With counts of integer labels (N,), -1 where there is none, and where they come from."""
        counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
        names = names or [str(number) for number in range(len(counts))]
        classes = dict(zip(names, counts))
        missing = int(np.sum(labels < 0))
        return dataclasses.replace(self, labels=by, unlabelled=missing, classes=classes)

    def noting(self, *notes: str) -> Self:
        """With more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes without an image."""
        return [name for name, count in (self.classes or {}).items() if not count]


def facts(train: Understood, test: Understood | None) -> dict[str, str]:
    """What was understood, as text under headings, in the order to be shown in.

    Args:
      train: of the training split.
      test: of the test split; None: there is none.
    """
    out = {}
    for split, part in (("training images", train), ("test images", test)):
        if part is None:
            out[split] = "none"
            continue
        kinds = _list(part.kinds) if len(part.kinds) > 1 else _some(list(part.kinds))
        out[split] = f"{part.images:,} ({kinds}), {part.place}"
        out[f"labels of {split}"] = _labels(part)
        if part.left_out:
            out[f"left out of {split}"] = str(LeftOut(part.left_out))
    present = {name for name, count in (train.classes or {}).items() if count}
    if train.empty_classes:
        out["classes without training images"] = _some(train.empty_classes)
    if test and any((test.classes or {}).values()) and (gone := present & set(test.empty_classes)):
        out["classes without test images"] = _some(sorted(gone))
    notes = (*train.notes, *(test.notes if test else ()))
    return out | ({"taken": "; ".join(notes)} if notes else {})


def kinds_of(names: Iterable[str]) -> dict[str, int]:
    """The ends of names in small letters, the most frequent first."""
    ends = (os.path.splitext(name)[1].lower() or "without a name" for name in names)
    counts = collections.Counter(ends)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _labels(part: Understood) -> str:
    if not part.labels or part.unlabelled == part.images:
        return f"none in {part.labels}" if part.labels else "none"
    text = part.labels
    if part.classes is not None:
        used = {name: count for name, count in part.classes.items() if count}
        text = f"{len(used):,} {_plural(len(used), 'class', 'classes')} by {text}: {_list(used)}"
    if part.unlabelled:
        text += f"; without a label {part.unlabelled:,}"
    return text


def _list(counts: Mapping[str, int]) -> str:
    """The first of some names, each with its count."""
    return _some([f"{name} {count:,}" for name, count in counts.items()])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
