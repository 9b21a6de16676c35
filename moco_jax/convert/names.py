"""Names and layouts of weights: one two-way table per backbone, and that of the heads.

A table lists the modules of a network in the order in which PyTorch's `state_dict()` and
`parameters()` give them, with the name of each here, in torchvision or timm (the same for both, and
for MoCo's releases), and in transformers. `rows` spells a table out, tensor by tensor.

C features, K queued keys, G groups of BatchNorm, N tokens; O and I channels out and in.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.models.resnet import DEPTHS
from moco_jax.models.vit import SIZES

Array = np.ndarray


class Module(NamedTuple):
    """A module in three naming schemes.

    Attributes:
      kind: key of TENSORS.
      ours: path in our parameters.
      torch: name in torchvision and timm.
      transformers: name there; several where it splits the module along its outputs.
    """

    kind: str
    ours: str
    torch: str
    transformers: tuple[str, ...] = ()


class Row(NamedTuple):
    """A tensor here and there.

    Attributes:
      ours: name of the leaf, as in a checkpoint of ours.
      theirs: name of the tensor; several are parts of it along the first axis.
      layout: key of LAYOUTS.
      part: what it belongs to, e.g. "query backbone": all of a part is there, or nothing.
      parameter: whether PyTorch counts it among `parameters()`; otherwise it is a buffer.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: str
    part: str
    parameter: bool


class Layout(NamedTuple):
    """How a tensor is laid out there and here; both directions give views where they can."""

    read: Callable[[Array], Array]
    write: Callable[[Array], Array]


def _mean_of_groups(x: Array) -> Array:
    # In float64 the sum of equal float32 is exact, so that what was read is written unchanged.
    return np.mean(x, axis=0, dtype=np.float64).astype(x.dtype)


LAYOUTS = {
    "same": Layout(lambda x: x, lambda x: x),
    "matrix": Layout(np.transpose, np.transpose),  # (out, in) to (in, out); queue (C, K) to (K, C)
    "conv": Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # OIHW
    "statistic": Layout(lambda x: x[None], _mean_of_groups),  # (C,) to (G, C)
    "pointer": Layout(
        lambda x: x.reshape(()).astype(np.int32), lambda x: x.reshape(1).astype(np.int64)
    ),
}

# Tensors of a kind of module: name there, collection and name here, layout.
_KERNEL = {
    "linear": ("weight", "params", "kernel", "matrix"),
    "conv": ("weight", "params", "kernel", "conv"),
}
_BIAS = ("bias", "params", "bias", "same")
_NORM = (("weight", "params", "scale", "same"), _BIAS)
_STATISTICS = (
    ("running_mean", "stats", "mean", "statistic"),
    ("running_var", "stats", "var", "statistic"),
    ("num_batches_tracked", "stats", "count", "same"),
)
TENSORS = {
    "linear": (_KERNEL["linear"], _BIAS),
    "linear without bias": (_KERNEL["linear"],),
    "conv": (_KERNEL["conv"], _BIAS),
    "conv without bias": (_KERNEL["conv"],),
    "layer norm": _NORM,
    "batch norm": _NORM + _STATISTICS,
    "batch norm, not affine": _STATISTICS,
    "parameter": (("", "params", "", "same"),),
    "constant": (("", "constants", "", "same"),),  # a frozen parameter there
}

# Where the collections of the two encoders lie in a checkpoint of ours. Constants and counts of
# batches are no part of a TrainState: `formats/ours.py` keeps them beside it.
ONLINE = {"params": "params", "stats": "method_state/stats", "constants": "constants"}
TARGET = {
    "params": "method_state/target/params",
    "stats": "method_state/target/stats",
    "constants": "target_constants",
}


def backbone(model: ConfigDict) -> list[Module]:
    """The table of the backbone that `config.model` names, without a classifier."""
    table = _resnet if model.name.startswith("resnet") else _vit
    return list(table(model))


def _resnet(model: ConfigDict) -> Iterator[Module]:
    stages, bottleneck = DEPTHS[int(model.name.removeprefix("resnet"))]
    conv, norm = "conv without bias", "batch norm"
    yield Module(conv, "conv1", "conv1", ("embedder.embedder.convolution",))
    yield Module(norm, "bn1", "bn1", ("embedder.embedder.normalization",))
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            ours, torch = f"layer{stage + 1}_{block}", f"layer{stage + 1}.{block}"
            hf = f"encoder.stages.{stage}.layers.{block}"
            for i in range(1, 4 if bottleneck else 3):
                layer = f"{hf}.layer.{i - 1}"
                yield Module(conv, f"{ours}/conv{i}", f"{torch}.conv{i}", (f"{layer}.convolution",))
                yield Module(norm, f"{ours}/bn{i}", f"{torch}.bn{i}", (f"{layer}.normalization",))
            if block == 0 and (stage > 0 or bottleneck):
                names = f"{ours}/downsample_conv", f"{torch}.downsample.0"
                yield Module(conv, *names, (f"{hf}.shortcut.convolution",))
                names = f"{ours}/downsample_bn", f"{torch}.downsample.1"
                yield Module(norm, *names, (f"{hf}.shortcut.normalization",))


def _vit(model: ConfigDict) -> Iterator[Module]:
    v, size = model.vit, SIZES[model.name.removeprefix("vit_")]
    norm = "layer norm" if v.norm == "layer" else "batch norm"
    if v.pool == "cls":
        yield Module("parameter", "cls_token", "cls_token", ("embeddings.cls_token",))
    if v.position != "none":
        kind = "constant" if v.position == "sincos" else "parameter"
        yield Module(kind, "pos_embed", "pos_embed", ("embeddings.position_embeddings",))
    if v.stem == "conv":
        for i in range(4):
            ours, torch = f"patch_embed/{{}}{i + 1}", "patch_embed.proj.{}"
            yield Module("conv without bias", ours.format("conv"), torch.format(3 * i))
            yield Module("batch norm", ours.format("bn"), torch.format(3 * i + 1))
        yield Module("conv", "patch_embed/proj", "patch_embed.proj.12")
    else:
        hf = ("embeddings.patch_embeddings.projection",)
        yield Module("conv", "patch_embed", "patch_embed.proj", hf)
    for block in range(v.depth or size.depth - (v.stem == "conv")):
        ours, torch, hf = f"blocks_{block}", f"blocks.{block}", f"encoder.layer.{block}"
        qkv = tuple(f"{hf}.attention.attention.{x}" for x in ("query", "key", "value"))
        for kind, name, theirs in (
            (norm, "norm1", (f"{hf}.layernorm_before",)),
            ("linear", "attn/qkv", qkv),
            ("linear", "attn/proj", (f"{hf}.attention.output.dense",)),
            (norm, "norm2", (f"{hf}.layernorm_after",)),
            ("linear", "mlp/fc1", (f"{hf}.intermediate.dense",)),
            ("linear", "mlp/fc2", (f"{hf}.output.dense",)),
        ):
            yield Module(kind, f"{ours}/{name}", f"{torch}.{name.replace('/', '.')}", theirs)
    if v.pool != "avg":
        yield Module(norm, "norm", "norm", ("layernorm",))


def head(record: ConfigDict, name: str) -> list[Module]:
    """The table of a projector or predictor.

    PyTorch's is one linear layer called `name`, or a Sequential, whose layers bear the number of
    their position, ReLUs counted.

    Args:
      record: of `config.mlp`.
      name: there, with or without a prefix: "fc", "head", "predictor".
    """
    linear = "linear" if record.bias else "linear without bias"
    if record.layers == 1 and not record.last_bn:
        return [Module(linear, "fc1", name)]
    modules, position = [], 0
    for i in range(1, record.layers + 1):
        last = i == record.layers
        modules.append(Module(linear, f"fc{i}", f"{name}.{position}"))
        position += 1
        if record.last_bn if last else record.bn:
            kind = "batch norm, not affine" if last else "batch norm"
            modules.append(Module(kind, f"bn{i}", f"{name}.{position}"))
            position += 1
        position += 1  # the ReLU
    return modules


def classifier(model: ConfigDict) -> list[Module]:
    """The table of a linear classifier on the features."""
    return [Module("linear", "", classifier_name(model))]


def classifier_name(model: ConfigDict) -> str:
    """What PyTorch calls the layer on top of the backbone, there also MoCo's projector."""
    return "fc" if model.name.startswith("resnet") else "head"


# A tanh layer on the class token that transformers adds; it is kept and written back.
POOLER = [Module("linear", "", "pooler.dense", ("pooler.dense",))]


def rows(
    modules: Iterable[Module],
    network: str,
    part: str,
    *,
    prefix: str = "",
    collections: dict[str, str] = ONLINE,
    transformers: bool = False,
) -> list[Row]:
    """Spells out a table, tensor by tensor, in PyTorch's order.

    Args:
      modules: the table.
      network: ours: "backbone", "projector", "predictor", "classifier".
      part: of every row.
      prefix: of every name there.
      collections: ONLINE or TARGET.
      transformers: name the tensors as transformers does.
    """
    out = []
    for m in modules:
        names = m.transformers if transformers else (m.torch,)
        for theirs, collection, ours, layout in TENSORS[m.kind]:
            leaf = "/".join(filter(None, (collections[collection], network, m.ours, ours)))
            full = tuple(prefix + ".".join(filter(None, (name, theirs))) for name in names)
            out.append(Row(leaf, full, layout, part, collection != "stats"))
    return out
