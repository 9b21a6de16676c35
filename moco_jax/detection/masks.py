"""Outlines of objects, as COCO has them, and the bits that they stand for.

H height, W width of an image, S side of a box's bits

An outline stays as compact as it came until its bits are asked for. pycocotools does the drawing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moco_jax.errors import InputError
from moco_jax.extras import extra

BOX_SIDE = 112  # four bits for each of the 28 of Mask R-CNN's targets, along either side
_LONG = 100  # sides of its box that a polygon may reach past it, as well
_FAR = 2  # images that an outline may reach past the border: drawing takes memory for its length


class Polygons(NamedTuple):
    """An object's parts, each float64 (2 * corners,): x and y in turn."""

    parts: tuple[np.ndarray, ...]


class Runs(NamedTuple):
    """An object's bits, column by column: how many are 0, then how many are 1, and so on.

    Attributes:
      height: H.
      width: W.
      counts: uint32, they add up to H * W.
    """

    height: int
    width: int
    counts: np.ndarray


Shape = Polygons | Runs


def _library() -> Any:
    with extra("detection", "masks of objects"):
        from pycocotools import mask
    return mask


def read_shape(given: Any, height: int, width: int) -> Shape | None:
    """The outline that COCO's `segmentation` is; None where it has none.

    Args:
      given: what stands there in the file.
      height: H.
      width: W.

    Raises:
      InputError: it is none, or not of an image of this size.
    """
    if isinstance(given, dict):
        return _read_runs(given, height, width)
    if not isinstance(given, list):
        raise InputError(f"{type(given).__name__} in place of polygons or run lengths")
    parts = tuple(_read_polygon(part, max(height, width)) for part in given)
    return Polygons(parts) if parts else None


def _read_polygon(part: Any, side: int) -> np.ndarray:
    try:
        corners = np.array(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError("a polygon of what are no numbers") from None
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
        raise InputError(f"a polygon of {np.size(corners)} numbers; expected x and y of 3 or more")
    if not (np.abs(corners) <= (1 + _FAR) * side).all():
        raise InputError("a polygon far outside of the image")
    return corners


def _read_runs(given: dict[str, Any], height: int, width: int) -> Runs:
    counts, size = given.get("counts"), given.get("size")
    if size != [height, width]:
        raise InputError(f"run lengths for {size}; expected {[height, width]}")
    if isinstance(counts, str):
        counts = unpack(counts)
    lengths = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    if not lengths or sum(counts) != height * width:
        raise InputError(f"run lengths that do not add up to {height} x {width}")
    return Runs(height, width, np.array(counts, np.uint32))


def unpack(letters: str) -> list[int]:
    """Run lengths from COCO's letters: five bits each, the sixth says that more follow.

    From the fourth on each is the difference to the one before the last. The library would read
    letters that are none as well, past their end.

    Raises:
      InputError: they are no run lengths.
    """
    counts, value, shift = [], 0, 0
    for code in (ord(letter) - 48 for letter in letters):
        if not 0 <= code < 64 or shift > 30:
            raise InputError("run lengths in letters that are none")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (1 << shift) if code & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise InputError("run lengths that break off")
    return counts


def whole(shape: Shape, height: int, width: int) -> np.ndarray:
    """The bits of an image, bool (H, W)."""
    return _library().decode(encoded(shape, height, width)).astype(bool)


def encoded(shape: Shape, height: int, width: int) -> dict[str, Any]:
    """COCO's run lengths, `size` and `counts`, of a shape in an image of a height and width."""
    library = _library()
    if isinstance(shape, Runs):
        given = {"size": [shape.height, shape.width], "counts": shape.counts.tolist()}
        return library.frPyObjects(given, height, width)
    parts = [part.tolist() for part in shape.parts]
    return library.merge(library.frPyObjects(parts, height, width))


def encode(bits: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of bits, bool (H, W)."""
    return _library().encode(np.asfortranarray(bits.astype(np.uint8)))


def decode(lengths: dict[str, Any]) -> np.ndarray:
    """Undoes `encode`: bool (H, W)."""
    return _library().decode(lengths).astype(bool)


def in_box(shape: Shape, box: np.ndarray, side: int = BOX_SIDE) -> np.ndarray:
    """The bits within a box, the box stretched to a square.

    Polygons are drawn at that size, as detectron2 does, unless the box is a speck of theirs; of
    that, and of run lengths, a bit is 1 where at least half of what it covers is.

    Args:
      shape: the outline.
      box: float32 (4,), x1 y1 x2 y2.
      side: S.

    Returns:
      bool (S, S).
    """
    corner, scale = box[:2].astype(np.float64), side / (box[2:] - box[:2]).astype(np.float64)
    width, height = np.ceil(box[2:]).astype(int).tolist()
    if isinstance(shape, Polygons):
        parts = [(part.reshape(-1, 2) - corner) * scale for part in shape.parts]
        if max(np.abs(part).max() for part in parts) < _LONG * side:
            return whole(Polygons(tuple(part.ravel() for part in parts)), side, side)
    else:
        width, height = shape.width, shape.height
    bits = whole(shape, height, width)
    sums = _sums(_sums(bits, box[1::2], side).T, box[::2], side).T
    return sums * scale.prod() >= 0.5 - 1e-9


def _sums(rows: np.ndarray, ends: np.ndarray, side: int) -> np.ndarray:
    """Sums of rows (H, M) over equal parts between two ends, shares of a row counted: (side, M)."""
    total = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, 0, np.float64)])
    edges = np.linspace(*ends.astype(np.float64), side + 1)
    at = np.minimum(edges.astype(np.int64), len(rows) - 1)
    share = (edges - at)[:, None]
    return np.diff(total[at] * (1 - share) + total[at + 1] * share, axis=0)


def all_in_boxes(shapes: Sequence[Shape | None], boxes: np.ndarray) -> np.ndarray:
    """`in_box` of n shapes in their boxes (n, 4), bool (n, S, S); all 0 of one without outline."""
    out = np.zeros((len(boxes), BOX_SIDE, BOX_SIDE), bool)
    for i, shape in enumerate(shapes):
        if shape is not None:
            out[i] = in_box(shape, boxes[i])
    return out
