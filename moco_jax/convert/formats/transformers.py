"""Folders of Hugging Face transformers: config.json and weights of a ViTModel or a ResNetModel.

The names are those in the files, which transformers keeps across its versions.
"""

import json
import math
import pathlib
from typing import Any

from moco_jax import config
from moco_jax.config import ConfigDict
from moco_jax.convert import preprocessing, safetensors
from moco_jax.convert.contents import Contents, complete, heads_of, width_of
from moco_jax.convert.formats.pytorch import RECORD, collect, write_record
from moco_jax.convert.names import POOLER, Row, backbone, rows
from moco_jax.errors import CheckpointError
from moco_jax.models.block import MLP_RATIO
from moco_jax.models.resnet import DEPTHS
from moco_jax.models.vit import SIZES

WEIGHTS = "model.safetensors"
LAYER_NORM_EPS = 1e-12  # where config.json does not say
MAX_DEPTH = 1000


def layout(c: ConfigDict) -> list[Row]:
    """The backbone, and transformers' own pooler."""
    body = rows(backbone(c.model), "backbone", "backbone", transformers=True)
    return body + rows(POOLER, "pooler", "pooler", transformers=True)


def write(contents: Contents, path: pathlib.Path) -> None:
    """Writes config.json, preprocessor_config.json and the weights into an existing folder.

    Args:
      contents: an encoder.
      path: of the folder, which exists.

    Raises:
      CheckpointError: transformers has no such model.
    """
    said = _said(contents.config)
    tensors = collect(layout(contents.config), complete(contents), {"backbone"})
    first = next(t for name, t in tensors.items() if t.ndim == 4)
    said |= {"num_channels": int(first.shape[1])}
    (path / "config.json").write_text(json.dumps(said, indent=2) + "\n")
    images = preprocessing.for_transformers(contents.config)
    (path / preprocessing.FILE).write_text(json.dumps(images, indent=2) + "\n")
    with open(path / WEIGHTS, "wb") as file:
        safetensors.save(tensors, {RECORD: write_record(contents)}, file)


def config_of(said: dict[str, Any]) -> ConfigDict:
    """The model that a config.json describes.

    Raises:
      CheckpointError: another model, or options of it that are not ours.
    """
    kinds = {"vit": _read_vit, "vit_mae": _read_vit, "resnet": _read_resnet}
    kind = said.get("model_type")
    if kind is None:
        names = ", ".join(repr(name[:50]) for name in list(said)[:10]) or "nothing"
        raise CheckpointError(
            "config.json has no model_type, as transformers' have, nor an architecture, as timm's; "
            f"it has {names}"
        )
    if not isinstance(kind, str) or kind not in kinds:
        names = said.get("architectures")
        also = f" ({str(names)[:100]})" if names else ""
        raise CheckpointError(
            f"config.json is of model_type {str(kind)[:100]!r}{also}; {', '.join(kinds)} are read"
        )
    c = config.default()
    try:
        kinds[kind](c, said)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json does not describe such a model: {error!r}") from error
    return c


def _demand(said: dict[str, Any], **values: Any) -> None:
    for name, value in values.items():
        if said.get(name, value) != value:
            raise CheckpointError(f"config.json: {name}={said[name]!r} is not read, only {value!r}")


def _read_vit(c: ConfigDict, said: dict[str, Any]) -> None:
    width, depth, v = said["hidden_size"], said["num_hidden_layers"], c.model.vit
    _demand(said, hidden_act="gelu", qkv_bias=True, intermediate_size=MLP_RATIO * width)
    eps = said.get("layer_norm_eps", LAYER_NORM_EPS)
    if type(eps) not in (int, float) or not 0 < eps < math.inf:
        raise CheckpointError(f"config.json: layer_norm_eps={str(eps)[:100]} is no number above 0")
    names = [name for name, size in SIZES.items() if size.width == width]
    name = names[0] if names else "tiny"
    wanted = {"width": width, "depth": depth, "heads": said["num_attention_heads"]}
    differing = {k: n for k, n in wanted.items() if n != getattr(SIZES[name], k)}
    if not 0 < depth <= MAX_DEPTH:
        raise CheckpointError(f"config.json: {depth} blocks")
    c.model.name = f"vit_{name}"
    v.update(differing, patch=said["patch_size"], position="learned", norm_eps=float(eps))
    c.data.image_size = said["image_size"]


def _read_resnet(c: ConfigDict, said: dict[str, Any]) -> None:
    _demand(
        said, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False
    )
    kind = tuple(said["depths"]), said["layer_type"] == "bottleneck"
    depths = [depth for depth, stages in DEPTHS.items() if stages == kind]
    if not depths:
        raise CheckpointError(f"config.json: no ResNet has depths {said['depths']}")
    c.model.name = f"resnet{depths[0]}"
    c.model.resnet.width = said["embedding_size"] / 64


def _said(c: ConfigDict) -> dict[str, Any]:
    """config.json."""
    return _said_resnet(c) if c.model.name.startswith("resnet") else _said_vit(c)


def _said_resnet(c: ConfigDict) -> dict[str, Any]:
    if c.model.resnet.stem != "imagenet":
        raise CheckpointError("transformers has no ResNet with the stem of CIFAR")
    stages, bottleneck = DEPTHS[int(c.model.name.removeprefix("resnet"))]
    sizes = [round(64 * 2**i * c.model.resnet.width) for i in range(4)]
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "embedding_size": sizes[0],
        "hidden_sizes": [size * (4 if bottleneck else 1) for size in sizes],
        "depths": list(stages),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _said_vit(c: ConfigDict) -> dict[str, Any]:
    v, size = c.model.vit, SIZES[c.model.name.removeprefix("vit_")]
    problems = [
        f"{field}={v[field]!r}"
        for field, there in (("stem", "patch"), ("pool", "cls"), ("norm", "layer"))
        if v[field] != there
    ]
    if v.position == "none":
        problems.append("position='none'")
    if problems:
        raise CheckpointError(f"transformers' ViTModel has no {', '.join(problems)}")
    width = width_of(c.model)
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": int(v.depth or size.depth),
        "num_attention_heads": heads_of(c.model),
        "intermediate_size": MLP_RATIO * width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": float(v.norm_eps),
        "image_size": int(c.data.image_size),
        "patch_size": int(v.patch),
        "qkv_bias": True,
    }
