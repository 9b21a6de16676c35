"""Which column of a table holds the images, and which the labels."""

from collections.abc import Sequence

from moco_jax.config import choose
from moco_jax.errors import InputError

# Called so, a column holds labels, though nothing else says it.
LABEL_NAMES = ("label", "labels", "class", "category", "target", "y")
_USUAL = ("image", "img", "label", "labels")  # where there are several, these are meant


def choose_image(what: str, columns: Sequence[str], found: Sequence[str], wanted: str) -> str:
    """The column of images.

    Args:
      what: what errors call the table.
      columns: all there are.
      found: those of images.
      wanted: `data.image_column`.

    Raises:
      InputError: there is none, or not that one, or there are several and none is wanted.
    """
    if not found:
        raise InputError(f"{what} has no image among its features {', '.join(columns)}")
    return _choose(what, "image", found, found, wanted)


def choose_label(
    what: str, columns: Sequence[str], found: Sequence[str], wanted: str
) -> str | None:
    """The column of labels, or None where nothing says that one is.

    Args:
      what: what errors call the table.
      columns: all there are.
      found: those of labels, by their type.
      wanted: `data.label_column`.

    Raises:
      InputError: not the one that is wanted, or there are several and none is.
    """
    if not (found or wanted):
        return None
    return _choose(what, "label", found, columns, wanted)


def _choose(what: str, kind: str, found: Sequence[str], allowed: Sequence[str], wanted: str) -> str:
    if wanted:
        return choose(f"data.{kind}_column", wanted, allowed)
    usual = [column for column in found if column.rpartition(".")[2] in _USUAL]
    if len(found) > 1 and len(usual) != 1:
        raise InputError(
            f"{what} has {len(found)} columns of {kind}s, {', '.join(found)}: choose one, "
            f"data.{kind}_column={found[0]!r}"
        )
    return (usual or found)[0]
