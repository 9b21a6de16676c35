"""kNN as a matrix of k and temperature, with floors beside, from the records of results.json."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from moco_jax.report import noise
from moco_jax.report.noise import Interval

FLOORS = ("raw pixels", "untrained", "before training")  # what a network is to be better than
_ACROSS = 3  # temperatures beside each other: so many fit a telephone

Record = dict[str, Any]


class Floor(NamedTuple):
    """What the same vote gives without what was learned.

    Attributes:
      name: one of FLOORS.
      top1: share.
      within_noise: whether it and the features' may be the same.
    """

    name: str
    top1: float
    within_noise: bool


class Cell(NamedTuple):
    """Accuracy for one k and temperature: share, its interval, and the floors of the same vote."""

    top1: float
    interval: Interval
    floors: tuple[Floor, ...]


class Matrix(NamedTuple):
    """All votes of one encoder.

    Attributes:
      encoder: which.
      about: split, bank and other settings, in words.
      examples: images that were classified.
      ks: rows.
      columns: temperatures, in parts of few.
      cells: by (k, temperature); a pair that was not measured is not there.
    """

    encoder: str
    about: str
    examples: int
    ks: tuple[int, ...]
    columns: tuple[tuple[float, ...], ...]
    cells: dict[tuple[int, float], Cell]


def matrices(records: Iterable[Record]) -> list[Matrix]:
    """A matrix for each encoder that was measured, the newest first.

    Args:
      records: of results.json; those that are not of kNN are left out.
    """
    groups: dict[str, list[Record]] = {}
    for r in records:
        if r["evaluation"] == "knn" and {"k", "temperature"} <= r["settings"].keys():
            groups.setdefault(_encoder(r), []).append(r)
    floors = [r for name, group in groups.items() if _of(group[0]) in FLOORS for r in group]
    learned = {name: group for name, group in groups.items() if _of(group[0]) not in FLOORS}
    return [_matrix(group, floors) for group in reversed((learned or groups).values())]


def _of(record: Record) -> str:
    return str(record["settings"].get("encoder", ""))


def _encoder(record: Record) -> str:
    """All that makes one matrix another, as text."""
    settings = {k: v for k, v in record["settings"].items() if k not in ("k", "temperature")}
    return json.dumps([settings, record["split"], record["examples"]], sort_keys=True)


def _pair(record: Record) -> tuple[int, float]:
    return record["settings"]["k"], record["settings"]["temperature"]


def _matrix(records: Sequence[Record], floors: Sequence[Record]) -> Matrix:
    first, cells = records[0], {}
    for r in records:
        top1, n = r["metrics"]["top1"], r["examples"]
        beside = _beside(r, floors)
        cells[_pair(r)] = Cell(
            top1,
            noise.wilson(top1, n),
            tuple(Floor(name, f["metrics"]["top1"], _within(r, f)) for name, f in beside.items()),
        )
    ks = tuple(sorted({k for k, _ in cells}))
    temperatures = sorted({t for _, t in cells})
    parts = range(0, len(temperatures), _ACROSS)
    columns = tuple(tuple(temperatures[i : i + _ACROSS]) for i in parts)
    return Matrix(_of(first), _about(first, floors), first["examples"], ks, columns, cells)


def _within(record: Record, floor: Record) -> bool:
    both = ((r["metrics"]["top1"], r["examples"]) for r in (record, floor))
    (p1, n1), (p2, n2) = both
    return noise.within(p1, n1, p2, n2)


def _beside(record: Record, floors: Iterable[Record]) -> dict[str, Record]:
    """The floors of the same vote on the same images; of several the one of the nearest bank."""
    bank = record["settings"].get("bank", 0)
    same = [
        f for f in floors
        if _pair(f) == _pair(record) and f["split"] == record["split"] and f is not record
    ]  # fmt: skip
    same.sort(key=lambda f: -abs(f["settings"].get("bank", 0) - bank))
    found = {_of(f): f for f in same}
    return {name: found[name] for name in FLOORS if name in found}


def _about(record: Record, floors: Iterable[Record]) -> str:
    settings = record["settings"]
    text = f"{record['examples']:,} images of {record['split']}"
    bank = settings.get("bank")
    if bank:
        text += f", by a bank of {bank:,}"
    others = sorted({f["settings"].get("bank") for f in _beside(record, floors).values()} - {bank})
    if others:
        text += f" (floors: of {', '.join(f'{other:,}' for other in others)})"
    known = ("encoder", "bank", "k", "temperature")
    more = [f"{name} {value}" for name, value in settings.items() if name not in known]
    return ", ".join([text, *more])
