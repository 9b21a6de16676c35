"""Folders of the Hugging Face hub: config.json, of transformers or of timm, and weights."""

import json
import pathlib
from typing import Any

from moco_jax.config import ConfigDict
from moco_jax.convert import preprocessing
from moco_jax.convert.arch import arch_of, infer, is_sincos
from moco_jax.convert.contents import Contents, heads_of
from moco_jax.convert.formats import plain, transformers
from moco_jax.convert.formats.pytorch import File, hints_of, open_file
from moco_jax.convert.hints import Hints
from moco_jax.convert.lookalike import assume, check
from moco_jax.convert.recognize import Network, Tensors
from moco_jax.errors import CheckpointError

# In the order in which transformers looks for them; an index names the files of the parts.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_INDEX = "index.json"


def read(path: pathlib.Path, hints: Hints) -> Contents:
    """Reads a folder with a config.json.

    Args:
      path: of the folder.
      hints: what it may leave open.

    Raises:
      CheckpointError: another model than a ViT or a ResNet, options of it that are not ours, or no
        weights.
    """
    said = _json(path / "config.json")
    kind, timm = said.get("model_type"), said.get("architecture")
    if kind is None and isinstance(timm, str):
        file = _weights(path)._replace(arch=timm)
        network, found = plain.network_of(file, hints)
        hints = hints_of(file, hints)
        c = infer(network.tensors, hints)
        check(timm, arch_of(c.model), hints)
        contents = plain.contents_of(file, network, found, c, hints)
        assume(timm, arch_of(c.model), hints)
        return _prepared(contents, _of_timm(said))
    c = transformers.config_of(said)
    if c.model.name.startswith("vit") and hints.heads not in (None, heads_of(c.model)):
        raise CheckpointError(f"config.json: {heads_of(c.model)} heads, not {hints.heads}")
    file = _weights(path)
    network, found = plain.network_of(file, hints)
    _recognise_sincos(c, network)
    contents = plain.contents_of(file, network, found, c, hints)
    images = _json(path / preprocessing.FILE) if (path / preprocessing.FILE).is_file() else {}
    return _prepared(contents._replace(format="transformers"), images)


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from error
    if not isinstance(said, dict):
        raise CheckpointError(f"{path.name} holds a {type(said).__name__}, not names and values")
    return said


def _weights(path: pathlib.Path) -> File:
    """The weights of a folder, from one file or from several parts."""
    there = [name for name in WEIGHTS if (path / name).is_file()]
    if not there:
        names = sorted(p.name for p in path.iterdir())[:10]
        raise CheckpointError(f"no weights in it ({', '.join(WEIGHTS)}), but {', '.join(names)}")
    if not there[0].endswith(_INDEX):
        return open_file(path / there[0])
    places = _json(path / there[0]).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{there[0]} says of no tensor where it is")
    parts = sorted({str(part) for part in places.values()})
    if absent := [p for p in parts if pathlib.PurePath(p).name != p or not (path / p).is_file()]:
        raise CheckpointError(f"of {len(parts)} parts {', '.join(absent[:10])} are not there")
    files = [open_file(path / part) for part in parts]
    tensors: Tensors = {}
    for file in files:
        tensors |= file.tensors
    return files[0]._replace(tensors=tensors)


def _of_timm(said: dict[str, Any]) -> dict[str, Any]:
    images = said.get("pretrained_cfg")
    return images if isinstance(images, dict) else {}


def _prepared(contents: Contents, images: dict[str, Any]) -> Contents:
    """Contents whose images are prepared as the folder says."""
    preprocessing.apply(images, contents.config, "the folder")
    return contents


def _recognise_sincos(c: ConfigDict, network: Network) -> None:
    position = network.tensors.get("pos_embed")
    if c.model.name.startswith("vit") and position is not None and position.ndim == 3:
        side = c.data.image_size // c.model.vit.patch
        if position.shape[1] == side**2 + 1 and is_sincos(position, side, 1):
            c.model.vit.position = "sincos"
