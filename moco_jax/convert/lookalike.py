"""Architectures that a file names: a network that is like another in all but its function.

An anti-aliased ResNet, or one with its stride in the first convolution, has the names and shapes of
the plain one. Only what the file calls it tells them apart.
"""

import logging
import re
from typing import Any

from moco_jax.convert.hints import Hints
from moco_jax.convert.placeholders import Record
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

MAX_NAME = 100  # characters
# Where files say it: at the top, or among the options of the program that wrote them.
_OPTIONS = ("args", "hyper_parameters", "hparams", "config", "cfg")
_KEYS = ("arch", "architecture", "model", "backbone", "name")
_RESNET = r"(?:tv_)?resnet[-_]?(?:18|34|50|101|152)"
_VIT = (
    r"(?:mae_|dino_)?(?:vit|deit)(?:_conv)?[-_]?(?:tiny|small|base|large|huge|[tsblh])"
    r"(?:[-_/]?(?P<patch>patch|p)?\d+)?(?:[-_]\d+)?(?:_(?:dino|mae|in21k|augreg|sam|miil))*"
)
_FAMILY = r"res|vit|deit"
# timm's and DeiT's heads; MoCo v3's small has 12, and its names have no patch.
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}


def architecture_of(tree: Record) -> str:
    """What a file calls its architecture; '' where it does not."""
    options = [tree.said(key) for key in _OPTIONS]
    for record in (tree, *(o for o in options if isinstance(o, Record))):
        for key in _KEYS[:2] if record is tree else _KEYS:
            found = record.said(key)
            found = found.said("name") if isinstance(found, Record) else found
            if isinstance(found, str) and 0 < len(found) <= MAX_NAME:
                return found
    return ""


def heads_of(said: str) -> int | None:
    """Attention heads of an architecture by a name of timm's, which has the patch in it."""
    found = re.fullmatch(_VIT, _bare(said))
    sizes = [count for size, count in _HEADS.items() if size in said.lower()]
    return sizes[0] if found and found["patch"] and sizes else None


def check(said: str, found: str, hints: Hints) -> None:
    """Holds what a file calls its architecture against the network that its names fit.

    Args:
      said: the file's word; '': none.
      found: the architecture that is read, key of `arch.ARCHS`.
      hints: where `arch` is given, it is the user's word that counts.

    Raises:
      CheckpointError: it is of the family, and not the plain network.
    """
    if not hints.arch and not _plain(said) and re.search(_FAMILY, said.lower()):
        raise CheckpointError(
            f"the file calls its network {said!r}, which is not the plain {found} that its names "
            "fit: the same numbers mean something else in it."
            + hints.offer("arch", f" If it is a plain one all the same, {{}} says so ({found}).")
        )


def assume(said: str, found: str, hints: Hints, note: str = "") -> None:
    """Says what is assumed of a network that was read; the arguments are those of `check`.

    Args:
      said: the file's word; '': none.
      found: the architecture.
      hints: see `check`.
      note: what else is assumed.
    """
    if hints.arch or _plain(said):
        return
    if said:
        log.info("The file calls its architecture %r: a plain %s is assumed", said, found)
    else:
        log.info("No architecture is named: a plain %s is assumed, as all names fit%s", found, note)


def _plain(said: str) -> bool:
    """Whether a file's word is one for a plain network."""
    return bool(re.fullmatch(f"{_RESNET}|{_VIT}", _bare(said)))


def _bare(said: str) -> str:
    """Without timm's tag of the training: 'resnet18.a1_in1k'."""
    return said.lower().split("/")[-1].split(".")[0] if "." in said else said.lower()


def known(value: Any) -> str:
    """A name from a config.json; '' where it is none."""
    return value if isinstance(value, str) and len(value) <= MAX_NAME else ""
