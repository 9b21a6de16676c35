"""The architecture of a file's network, read off its names and shapes (torchvision's, timm's)."""

import math
import re

import numpy as np

from moco_jax import config
from moco_jax.config import ConfigDict, choose
from moco_jax.convert.contents import side_of
from moco_jax.convert.hints import Hints
from moco_jax.convert.names import backbone, classifier_name, rows
from moco_jax.errors import CheckpointError
from moco_jax.models.resnet import DEPTHS
from moco_jax.models.tokens import CONV_STEM_PATCH, sincos_position
from moco_jax.models.vit import SIZES

Tensors = dict[str, np.ndarray]

ARCHS = {
    **{f"resnet{depth}": {"name": f"resnet{depth}"} for depth in DEPTHS},
    **{f"vit_{size}": {"name": f"vit_{size}"} for size in SIZES},
    **{f"vit_conv_{size}": {"name": f"vit_{size}", "stem": "conv"} for size in SIZES},
}
# Largest difference of a position embedding that still counts as the sin-cos one: half precision
# loses 5e-4; neighbouring positions differ by up to 1.
SINCOS_TOLERANCE = 1e-3


def arch_of(model: ConfigDict) -> str:
    """The key of ARCHS for a model; MoCo's releases use these names too."""
    if model.name.startswith("vit") and model.vit.stem == "conv":
        return model.name.replace("vit_", "vit_conv_")
    return model.name


def infer(tensors: Tensors, hints: Hints) -> ConfigDict:
    """A config with `model` and `data.image_size` as the tensors show them, else defaults.

    Args:
      tensors: by name, of one network under torchvision's or timm's names.
      hints: `arch`, `heads` and `norm_eps` decide what shapes leave open.

    Raises:
      CheckpointError: neither a ResNet nor a ViT, or one of several that the tensors allow.
    """
    c = config.default()
    if hints.arch is not None:
        choose("arch", hints.arch, ARCHS)
    is_vit = any(re.match(r"blocks\.|patch_embed\.|cls_token", name) for name in tensors)
    is_resnet = any(re.match(r"layer\d\.|conv1\.", name) for name in tensors)
    if is_vit == is_resnet:
        some = ", ".join(sorted(tensors)[:5])
        raise CheckpointError(f"neither a ResNet nor a Vision Transformer; its tensors: {some} ...")
    if hints.arch and hints.arch.startswith("vit") != is_vit:
        kind = "Vision Transformer" if is_vit else "ResNet"
        raise CheckpointError(f"arch={hints.arch!r} was asked for, but the file holds a {kind}")
    (_vit if is_vit else _resnet)(c, tensors, hints)
    return c


def input_channels(tensors: Tensors) -> int:
    """Channels of the images, from the first convolution; 3 where it is missing."""
    for name in ("conv1.weight", "patch_embed.proj.weight", "patch_embed.proj.0.weight"):
        if name in tensors and tensors[name].ndim == 4:
            return tensors[name].shape[1]
    return 3


def infer_head(tensors: Tensors, name: str) -> ConfigDict | None:
    """The record of the head called `name`, "fc" for example; None where there is none.

    Args:
      tensors: by name.
      name: 'fc', for example.
    """
    if f"{name}.weight" in tensors:
        weight = tensors[f"{name}.weight"]
        bias = f"{name}.bias" in tensors
        return config.mlp(layers=1, hidden=0, out=len(weight), bias=bias, bn=False, last_bn=False)
    positions = {
        int(found[1]): found[2]
        for found in (re.fullmatch(rf"{name}\.(\d+)\.(weight|running_mean)", n) for n in tensors)
        if found
    }
    shapes = {p: np.shape(tensors.get(f"{name}.{p}.weight")) for p in sorted(positions)}
    linear = [p for p, shape in shapes.items() if len(shape) == 2]
    if not linear:
        return None
    return config.mlp(
        layers=len(linear),
        hidden=shapes[linear[0]][0] if len(linear) > 1 else 0,
        out=shapes[linear[-1]][0],
        bias=f"{name}.{linear[0]}.bias" in tensors,
        bn=len(linear) > 1 and linear[0] + 1 in positions,
        last_bn=linear[-1] + 1 in positions,
    )


def classes_of(tensors: Tensors, model: ConfigDict) -> int:
    """Outputs of the classifier; 0 where there is none.

    Args:
      tensors: by name.
      model: `config.model` of the network.
    """
    bias = tensors.get(f"{classifier_name(model)}.bias")
    return 0 if bias is None else len(np.atleast_1d(bias))


def is_sincos(position: np.ndarray, side: int, token: int) -> bool:
    """Whether a position embedding (1, token + side * side, C) is the fixed one."""
    width = position.shape[-1]
    if width % 4:
        return False
    table = np.pad(sincos_position(side, side, width), ((0, 0), (token, 0), (0, 0)))
    return bool(np.abs(np.asarray(position, np.float32) - table).max() < SINCOS_TOLERANCE)


def _resnet(c: ConfigDict, tensors: Tensors, hints: Hints) -> None:
    def difference(name: str) -> int:
        model = config.default().model
        model.name = name
        table = rows(backbone(model), "backbone", "")
        return len({n for row in table for n in row.theirs} ^ tensors.keys())

    names = [hints.arch] if hints.arch else [f"resnet{depth}" for depth in DEPTHS]
    c.model.name = min(names, key=difference)
    kernel = tensors.get("conv1.weight")
    if kernel is not None and kernel.ndim == 4:
        c.model.resnet.width = len(kernel) / 64
        if kernel.shape[-1] == 3:
            c.model.resnet.stem = "cifar"
            c.data.image_size = 32


def _vit(c: ConfigDict, tensors: Tensors, hints: Hints) -> None:
    v = c.model.vit
    width = _width(tensors)
    heads = _heads(width, hints)
    if hints.arch:  # width and depth are the architecture's: what differs shows in the shapes
        v.stem = ARCHS[hints.arch].get("stem", "patch")
        c.model.name = ARCHS[hints.arch]["name"]
    else:
        v.stem = "conv" if "patch_embed.proj.0.weight" in tensors else "patch"
        c.model.name = _name_by_width(width)
        size = SIZES[c.model.name.removeprefix("vit_")]
        depth = _depth(tensors)
        v.width = 0 if width == size.width else width
        v.depth = 0 if depth == size.depth - (v.stem == "conv") else depth
        v.heads = 0 if heads == size.heads else heads
    v.patch = CONV_STEM_PATCH if v.stem == "conv" else _patch(tensors)
    v.norm = "batch" if "blocks.0.norm1.running_mean" in tensors else "layer"
    v.norm_eps = hints.norm_eps or v.norm_eps
    v.pool = _pool(tensors)
    position = tensors.get("pos_embed")
    if position is None:
        v.position = "sincos" if hints.official else "none"
        return
    if position.ndim != 3:
        raise CheckpointError(f"pos_embed has shape {position.shape}, not (1, N, C)")
    token = int(v.pool == "cls")
    side = side_of(position.shape[1] - token)
    c.data.image_size = side * v.patch
    v.position = "sincos" if is_sincos(position, side, token) else "learned"


def _width(tensors: Tensors) -> int:
    for name in ("cls_token", "pos_embed", "norm.weight", "blocks.0.norm1.weight"):
        if name in tensors and tensors[name].ndim:
            return tensors[name].shape[-1]
    raise CheckpointError("a Vision Transformer without any tensor that tells its width")


def _depth(tensors: Tensors) -> int:
    indices = [int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", n) for n in tensors) if m]
    depth = max(indices, default=-1) + 1
    if depth > len(tensors):
        raise CheckpointError(f"a Vision Transformer of {depth} blocks and {len(tensors)} tensors")
    return depth


def _name_by_width(width: int) -> str:
    names = [f"vit_{name}" for name, size in SIZES.items() if size.width == width]
    return names[0] if names else "vit_tiny"


def _heads(width: int, hints: Hints) -> int:
    """Attention heads, which no shape tells."""
    known = {size.width: size.heads for size in SIZES.values()}
    if hints.arch:
        said = SIZES[ARCHS[hints.arch]["name"].removeprefix("vit_")].heads
    else:
        said = known.get(width) if hints.official else None
    if said and hints.heads and said != hints.heads:
        raise CheckpointError(f"a Vision Transformer with {said} heads, not {hints.heads}")
    if said or hints.heads:
        return said or hints.heads
    if width in known and width != SIZES["small"].width:
        return known[width]
    raise CheckpointError(
        f"a Vision Transformer of width {width} does not tell its attention heads: MoCo v3's "
        "small has 12, timm's and DeiT's 6." + hints.offer("heads", " {} names them.")
    )


def _patch(tensors: Tensors) -> int:
    kernel = tensors.get("patch_embed.proj.weight")
    return kernel.shape[-1] if kernel is not None and kernel.ndim == 4 else 16


def _pool(tensors: Tensors) -> str:
    position = tensors.get("pos_embed")
    count = position.shape[1] - 1 if position is not None and position.ndim == 3 else 0
    # One position more than a square is the class token's, although the token may be missing.
    if "cls_token" in tensors or (count and math.isqrt(count) ** 2 == count):
        return "cls"
    return "avg_norm" if "norm.weight" in tensors else "avg"
