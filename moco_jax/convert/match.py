"""Holds a file's tensors against a table, and says by name what does not fit."""

import logging
from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np

from moco_jax.convert.hints import Hints
from moco_jax.convert.names import LAYOUTS, Row
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]
SHOWN = 20  # lines of each kind in a message


def theirs_of(row: Row, array: np.ndarray) -> dict[str, np.ndarray]:
    """A leaf of ours as the tensors that it is there.

    Args:
      row: which tensors these are, and their layout.
      array: the leaf.
    """
    out = LAYOUTS[row.layout].write(array)
    parts = [out] if len(row.theirs) == 1 else np.split(out, len(row.theirs))
    return dict(zip(row.theirs, parts, strict=True))


def ours_of(row: Row, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The tensors of a row as a leaf of ours: floats as float32, integers as they are."""
    parts = [tensors[name] for name in row.theirs]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if array.dtype != np.float32 and not np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float32)
    return LAYOUTS[row.layout].read(array)


def present(rows: Iterable[Row], tensors: Iterable[str], required: set[str]) -> list[Row]:
    """The rows of the parts that are there, be it in part, or required.

    Args:
      rows: what a file may hold.
      tensors: names that it holds.
      required: parts that have to be there.
    """
    names = set(tensors)
    rows = list(rows)
    parts = required | {row.part for row in rows if names & set(row.theirs)}
    return [row for row in rows if row.part in parts]


def match(
    rows: list[Row],
    shapes: Shapes,
    tensors: dict[str, np.ndarray],
    hints: Hints,
    where: str = "",
) -> dict[str, np.ndarray]:
    """Turns a file's tensors into leaves of ours.

    Args:
      rows: what the file should hold.
      shapes: of the leaves of ours; a leaf without one may have any.
      tensors: what it holds.
      hints: `partial` leaves out what does not fit, and says so, in place of an error.
      where: in the file, for the message.

    Returns:
      The leaves by name. Counts of batches that are not there are 0.

    Raises:
      CheckpointError: something is missing, unexpected or of another shape.
    """
    expected: dict[str, tuple[int, ...] | None] = {}
    for row in rows:
        expected |= _shapes_there(row, shapes.get(row.ours))
    counts = {row.theirs[0] for row in rows if row.ours.endswith("/count")} - tensors.keys()
    tensors = tensors | dict.fromkeys(counts, np.zeros((), np.int64))
    found = {name: tensor.shape for name, tensor in tensors.items()}
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    misshapen = {
        name for name in expected.keys() & found.keys() if expected[name] not in (None, found[name])
    }
    if missing or unexpected or misshapen:
        lines = [
            *_listed("missing", missing, unexpected),
            *_listed("unexpected", unexpected, missing),
            *_misshapen(misshapen, found, expected),
        ]
        if not hints.partial:
            raise CheckpointError(
                f"the names or shapes{where} do not fit:\n"
                + "\n".join(lines)
                + hints.offer("partial", "\n{} takes what fits.")
            )
        log.warning("Left out, so that its features may be others:\n%s", "\n".join(lines))
    bad = missing | misshapen
    return {row.ours: ours_of(row, tensors) for row in rows if not bad & set(row.theirs)}


def _shapes_there(row: Row, shape: tuple[int, ...] | None) -> dict[str, tuple[int, ...] | None]:
    """The shapes of a row's tensors in the file, by name."""
    if shape is None:
        return dict.fromkeys(row.theirs)
    blank = np.broadcast_to(np.float32(0), shape)  # no memory
    return {name: part.shape for name, part in theirs_of(row, blank).items()}


def _listed(title: str, names: set[str], others: set[str]) -> list[str]:
    lines = []
    for name in sorted(names)[:SHOWN]:
        near = get_close_matches(name, others, 1, 0.6)
        lines.append(f"  {title}: {name}" + (f"   (nearest: {near[0]})" if near else ""))
    return lines + _rest(title, names)


def _misshapen(names: set[str], found: Shapes, expected: Shapes) -> list[str]:
    lines = [
        f"  misshapen: {name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(names)[:SHOWN]
    ]
    return lines + _rest("misshapen", names)


def _rest(title: str, names: set[str]) -> list[str]:
    return [f"  {title}: {len(names) - SHOWN} more"] if len(names) > SHOWN else []
