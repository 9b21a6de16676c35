"""Naming schemes: how a network is found by its names, and what torchvision or timm call them.

A scheme is known by the names of its blocks; what stands in front of these is the network's
prefix. Behind this module there is one scheme, that of torchvision's ResNets and timm's ViTs.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from moco_jax import config
from moco_jax.convert.names import Module, Row, backbone, rows

Tensors = dict[str, np.ndarray]
Names = Iterator[tuple[Row, tuple[str, ...]]]


class Scheme(NamedTuple):
    """A way to name a network's tensors.

    Attributes:
      title: whose it is.
      block: matches the name of a tensor of a block, with the network's prefix as group 1.
      rename: tensors, without the prefix, to those of torchvision or timm; a name that is not
        the scheme's stays as it is.
    """

    title: str
    block: re.Pattern[str]
    rename: Callable[[Tensors], Tensors]


def detectron2_name(name: str) -> str:
    """What MoCo's converter makes of torchvision's name."""
    if "layer" not in name:
        name = f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _detectron2(tensors: Tensors) -> Tensors:
    """MoCo's converter puts a head of several layers, which no table has, in front of the stem."""
    renamed = _by_table(partial(_called, detectron2_name), tensors)
    return {name.replace("stem.fc.", "fc."): tensor for name, tensor in renamed.items()}


def torchvision_vit_name(name: str) -> str:
    """What torchvision makes of timm's name."""
    name = re.sub(r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1.", name)
    for timm, there in (
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"), (r"\.attn\.proj\.",
        ".self_attention.out_proj."), (r"\.norm(\d)\.", r".ln_\1."), (r"^norm\.", "encoder.ln."),
        (r"\.fc1\.", ".0."), (r"\.fc2\.", ".3."), (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"), (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^head\.", "heads.head."),
    ):  # fmt: skip
        name = re.sub(timm, there, name)
    return name


def _modules(tensors: Iterable[str]) -> list[Module]:
    """The tables of the largest ResNet and of a ViT of enough blocks, and their classifiers."""
    numbers = [int(n) for name in tensors for n in re.findall(r"(?<![^._])\d{1,4}(?=\.)", name)]
    resnet, vit = config.default().model, config.default().model
    resnet.name, vit.name = "resnet152", "vit_base"
    depth = min(max(numbers, default=0) + 1, len(list(tensors)))
    vit.vit.update(position="learned", depth=max(depth, 1))
    classifiers = [
        Module("linear", "", "fc", ("classifier.1",)),
        Module("linear", "", "head", ("classifier",)),
    ]
    return [*backbone(resnet), *backbone(vit), *classifiers]


def _by_table(theirs: Callable[[list[Module]], Names], tensors: Tensors) -> Tensors:
    """Renames by the tables of all names; parts of a tensor that was split are joined."""
    places = {
        name: (row.theirs[0], part, len(names))
        for row, names in theirs(_modules(tensors))
        for part, name in enumerate(names)
    }
    out: Tensors = {}
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    for name, tensor in tensors.items():
        target, part, count = places.get(name, (name, 0, 1))
        if count == 1:
            out[target] = tensor
        else:
            parts[target][part] = name
            if len(parts[target]) == count:
                pieces = parts.pop(target)
                out[target] = np.concatenate([tensors[pieces[i]] for i in range(count)])
    return out | {name: tensors[name] for pieces in parts.values() for name in pieces.values()}


def _called(name: Callable[[str], str], modules: list[Module]) -> Names:
    for row in rows(modules, "", ""):
        yield row, (name(row.theirs[0]),)


def _as_transformers(modules: list[Module]) -> Names:
    named = [m for m in modules if m.transformers]
    there = rows(named, "", "", transformers=True)
    yield from zip(rows(named, "", ""), (row.theirs for row in there), strict=True)


# How modules of transformers 5 are called in memory, and by its folders.
_IN_MEMORY = {
    "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip


def _transformers(tensors: Tensors) -> Tensors:
    def name(there: str) -> str:
        there = re.sub(r"^(vit|resnet)\.", "", there)
        found = re.match(r"layers\.(\d+)\.(\w+(?:\.\w+)?)\.(?=\w+$)", there)
        if not found:
            return there
        module = _IN_MEMORY.get(found[2], found[2])
        return f"encoder.layer.{found[1]}.{module}.{there[found.end() :]}"

    return _by_table(_as_transformers, {name(there): t for there, t in tensors.items()})


def _torchvision_vit(tensors: Tensors) -> Tensors:
    """Before 0.13 the layers of a block were called linear_1 and linear_2."""
    old = {"linear_1": "0", "linear_2": "3"}
    bare = {
        re.sub(r"(?<=\.mlp\.)linear_[12]", lambda found: old[found[0]], name): tensor
        for name, tensor in tensors.items()
    }
    return _by_table(partial(_called, torchvision_vit_name), bare)


def _torch(tensors: Tensors) -> Tensors:
    """Some write shortcut and linear for torchvision's downsample and fc."""

    def name(there: str) -> str:
        return re.sub(
            r"^linear\.", "fc.", re.sub(r"^(layer\d\.\d+\.)shortcut", r"\1downsample", there)
        )

    return {name(there): tensor for there, tensor in tensors.items()}


def _positions(tensors: Tensors) -> Tensors:
    """The children of a ResNet in an `nn.Sequential`, by what they hold and in order."""
    stages = sorted({int(n.split(".")[0]) for n in tensors if re.match(r"\d+\.\d+\.(conv|bn)", n)})
    children = {str(position): f"layer{i}" for i, position in enumerate(stages, 1)}
    for name, tensor in tensors.items():
        position, _, rest = name.partition(".")
        if rest == "weight" and position not in children:
            children[position] = {4: "conv1", 1: "bn1", 2: "fc"}.get(tensor.ndim, position)

    def rename(name: str) -> str:
        position, dot, rest = name.partition(".")
        return children.get(position, position) + dot + rest

    return _torch({rename(name): tensor for name, tensor in tensors.items()})


def _block(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(|.+?\.){pattern}\.")


SCHEMES = {
    "torch": Scheme("torchvision or timm", _block(r"(?:layer[1-4]\.\d+|blocks\.\d+)"), _torch),
    "transformers": Scheme(
        "transformers",
        _block(
            r"(?:(?:vit|resnet)\.)?(?:encoder\.layer\.\d+|encoder\.stages\.\d+\.layers\.\d+"
            r"|layers\.\d+\.attention\.[qkv]_proj)"
        ),
        _transformers,
    ),
    "torchvision_vit": Scheme(
        "torchvision's Vision Transformer",
        _block(r"encoder\.layers\.encoder_layer_\d+"),
        _torchvision_vit,
    ),
    "detectron2": Scheme(
        "detectron2",
        _block(r"res[2-5]\.\d+"),
        _detectron2,
    ),
    "positions": Scheme(
        "positions in an nn.Sequential",
        _block(r"\d+\.\d+\.(?:conv\d|bn\d|downsample|shortcut)"),
        _positions,
    ),
}
