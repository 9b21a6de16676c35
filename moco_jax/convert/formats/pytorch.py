"""Files of tensors: opening them, telling their formats apart, and what all formats share."""

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from moco_jax import __version__
from moco_jax.convert import preprocessing, safetensors, torchfile
from moco_jax.convert.arch import ARCHS, arch_of
from moco_jax.convert.contents import ENCODERS, Contents, heads_of
from moco_jax.convert.hints import Hints
from moco_jax.convert.lookalike import architecture_of
from moco_jax.convert.lookalike import heads_of as heads_of_name
from moco_jax.convert.match import SHOWN, theirs_of
from moco_jax.convert.names import Row
from moco_jax.convert.placeholders import Array, Record, Tensor, brief
from moco_jax.convert.recognize import WRAPPERS, flatten
from moco_jax.errors import CheckpointError

RECORD = "moco_jax"  # where our files say what is in them; other readers pass it over
# MoCo v3's names of architectures; timm's training files have other names in their place.
OFFICIAL_VITS = ("vit_small", "vit_base", "vit_conv_small", "vit_conv_base")
USED = {RECORD, "epoch", "arch", "__author__", "matching_heuristics"}  # of the top level


class File(NamedTuple):
    """A file of tensors.

    Attributes:
      tree: the top level.
      tensors: all of them by name, see `recognize.flatten`.
      record: what a file of ours says about itself; else empty.
      arch: what it calls its architecture; '' where it does not.
    """

    tree: dict[str, Any]
    tensors: dict[str, np.ndarray]
    record: dict[str, Any]
    arch: str

    def others(self) -> list[str]:
        """Entries of the top level that hold no tensors and are not used."""
        passed = USED | WRAPPERS | {name.partition(".")[0] for name in self.tensors}
        return [
            ascii(key[:50])[1:-1]
            for key, value in self.tree.items()
            if isinstance(key, str) and key not in passed and not isinstance(value, Tensor | Array)
        ]


def open_file(path: pathlib.Path) -> File:
    """Opens a file of tensors, whatever its name ends in.

    Raises:
      CheckpointError: it is damaged, of no known kind, or holds no tensors.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(torchfile.ZIP_MAGIC):
        return _of_tree(torchfile.read_zip(path))
    if start.startswith(torchfile.LEGACY_MAGIC):
        return _of_tree(torchfile.read_legacy(path))
    if start[8:9] == b"{":
        tensors, metadata = safetensors.read(path)
        record = known(safetensors.parse(metadata, RECORD))
        return File({}, flatten(tensors), record, record.get("arch", ""))
    if start[:1] == b"\x80":
        return _of_tree(torchfile.read_pickle(path))
    if b"ustar" in start:
        raise CheckpointError("a tar archive: PyTorch's format before 0.1.10 is not read")
    raise CheckpointError("neither a PyTorch file nor safetensors")


def hints_of(file: File, hints: Hints) -> Hints:
    """Adds what the file itself says of its attention heads and of LayerNorm's epsilon.

    Args:
      file: a PyTorch file.
      hints: what the user says, which comes first.

    Raises:
      CheckpointError: the file says other heads than the user.
    """
    said = file.record.get("heads")
    if said and hints.heads and said != hints.heads:
        raise CheckpointError(f"the file says {said} attention heads, not {hints.heads}")
    official = hints.official or (not said and file.tree.get("arch") in OFFICIAL_VITS)
    heads = hints.heads or said or (None if hints.arch else heads_of_name(file.arch))
    eps = file.record.get("norm_eps")
    return hints._replace(heads=heads, official=official, norm_eps=eps)


def known(record: Any) -> dict[str, Any]:
    """The entries of a record that are understood, and well formed."""
    if not isinstance(record, dict):
        return {}
    valid = {
        "arch": lambda value: isinstance(value, str) and value in ARCHS,
        "encoder": lambda value: isinstance(value, str) and value in ENCODERS,
        "heads": lambda value: type(value) is int and value > 0,
        "norm_eps": lambda value: type(value) is float and 0 < value < math.inf,
        "step": lambda value: type(value) is int and value >= 0,
        "images": lambda value: isinstance(value, dict),
    }
    return {name: record[name] for name, test in valid.items() if test(record.get(name))}


def collect(rows: Iterable[Row], contents: Contents, required: set[str]) -> dict[str, np.ndarray]:
    """The tensors of the rows whose part is there; of required parts, all.

    Raises:
      CheckpointError: a part is incomplete, and the contents are not known to be partial.
    """
    rows = list(rows)
    there = {row.part for row in rows if row.ours in contents.leaves} | required
    missing = [r.ours for r in rows if r.part in there and r.ours not in contents.leaves]
    if missing and not contents.partial:
        more = [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        raise CheckpointError(
            "what is to be written needs more than there is:\n  "
            + "\n  ".join(missing[:SHOWN] + more)
        )
    out: dict[str, np.ndarray] = {}
    for row in rows:
        if row.ours in contents.leaves:
            out |= theirs_of(row, contents.leaves[row.ours])
    return out


def record_of(contents: Contents) -> dict[str, Any]:
    """What a file of ours says about itself."""
    model = contents.config.model
    record = {
        "version": __version__,
        "source": contents.format,
        "encoder": contents.encoder,
        "arch": arch_of(model),
        "step": int(contents.step),
        "images": preprocessing.said_of(contents.config),
    }
    if model.name.startswith("vit"):
        size, eps = int(contents.config.data.image_size), float(model.vit.norm_eps)
        record |= {"heads": heads_of(model), "image_size": size, "norm_eps": eps}
    return record


def write_record(contents: Contents) -> str:
    """`record_of` as JSON."""
    return json.dumps(record_of(contents))


def number(tree: dict[str, Any], key: str) -> float | None:
    """A number at the top level of a file; None where there is none.

    Args:
      tree: the file's content.
      key: of its top level.
    """
    value = tree.get(key)
    if isinstance(value, Tensor) and value.numpy().size == 1:
        value = value.numpy().item()
    return value if isinstance(value, int | float) else None


def _of_tree(tree: Any) -> File:
    if not isinstance(tree, Record):
        raise CheckpointError(f"{brief(tree)}, where a dict of tensors was expected")
    tensors = flatten(tree)
    if not tensors:
        keys = ", ".join(brief(key) for key in list(tree)[:10]) or "nothing"
        raise CheckpointError(f"there are no tensors in it, but {keys}")
    metadata = tree.said("_metadata")
    said = tree.get(RECORD) or (metadata.get(RECORD) if isinstance(metadata, Record) else None)
    record = known(said)
    return File(tree, tensors, record, record.get("arch", "") or architecture_of(tree))
