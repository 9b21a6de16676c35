"""Files of one encoder: torchvision's, timm's, DeiT's, linear-probe checkpoints, detectron2's."""

import logging
import re
from collections import OrderedDict
from typing import Any

import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.convert import optimizer, preprocessing
from moco_jax.convert.arch import arch_of, classes_of, infer, input_channels
from moco_jax.convert.contents import ROLES, Contents, complete, shapes_of
from moco_jax.convert.formats.pytorch import RECORD, File, collect, hints_of, number, record_of
from moco_jax.convert.formats.transformers import LAYER_NORM_EPS
from moco_jax.convert.hints import Hints
from moco_jax.convert.lookalike import assume, check
from moco_jax.convert.match import match, present
from moco_jax.convert.names import POOLER, Row, backbone, classifier, classifier_name, head, rows
from moco_jax.convert.recognize import Network, Tensors, choose, networks, report
from moco_jax.convert.schemes import SCHEMES, detectron2_name
from moco_jax.convert.topickle import StateDict
from moco_jax.data import pipeline
from moco_jax.errors import CheckpointError
from moco_jax.models.vit import NORM_EPS

log = logging.getLogger(__name__)

# What no name or shape of a scheme tells.
NOTES = {"detectron2": ", with images as RGB and the stride in the 3x3 convolutions"}
# What masked image modelling adds to a ViT (MAE, SimMIM, iBOT), and whole images never meet.
_MASKED = re.compile(r"decoder[._]|(?:embeddings\.)?mask(?:_token|ed_embed)$")


def layout(c: ConfigDict) -> list[Row]:
    """The backbone and a classifier, in the order of the model's `state_dict()`."""
    body = rows(backbone(c.model), "backbone", "backbone")
    return body + rows(classifier(c.model), "classifier", "classifier")


def read(file: File, hints: Hints) -> Contents:
    """Reads one of the networks in a file, with the classifier on top if there is one.

    Args:
      file: of any program.
      hints: `encoder` says which of several is meant.

    Raises:
      CheckpointError: there is none, or not one alone that is meant, or it is not what it seems.
    """
    network, found = network_of(file, hints)
    hints = hints_of(file, hints)
    c = infer(network.tensors, hints)
    if network.scheme == "transformers" and c.model.name.startswith("vit") and not file.record:
        c.model.vit.norm_eps = LAYER_NORM_EPS
        log.info("LayerNorm's epsilon: %g, transformers' default; config.json would say it",
                 LAYER_NORM_EPS)  # fmt: skip
    check(file.arch, arch_of(c.model), hints)
    contents = contents_of(file, network, found, c, hints)
    assume(file.arch, arch_of(c.model), hints, NOTES.get(network.scheme, ""))
    return contents


def network_of(file: File, hints: Hints) -> tuple[Network, list[Network]]:
    """The network that is meant, and all that are there.

    Args:
      file: of any program.
      hints: `encoder` says which of several is meant.

    Raises:
      CheckpointError: there is none, or more than one that could be meant.
    """
    found = networks(file.tensors)
    if not found:
        some = ", ".join(sorted(file.tensors)[:5])
        raise CheckpointError(f"neither a ResNet nor a Vision Transformer; its tensors: {some} ...")
    said = file.record.get("encoder")
    if len(found) == 1 and ROLES.get(hints.encoder) == said:  # of a file of ours
        return found[0], found
    return choose(found, hints), found


def contents_of(
    file: File, network: Network, found: list[Network], c: ConfigDict, hints: Hints
) -> Contents:
    """The contents, of a network of the architecture in `c`; says what is left out.

    Args:
      file: it is read from.
      network: the one that is meant.
      found: all that are there.
      c: config with its architecture; changed.
      hints: what the file may leave open.
    """
    tensors, heads = _without_heads(network.tensors, c.model)
    tensors, masked = _without_decoder(tensors, c.model)
    whole = layout(c)
    if network.scheme == "transformers":
        whole += rows(POOLER, "pooler", "pooler")
    preprocessing.apply(file.record.get("images", {}), c, "the file")
    shapes = shapes_of(c, input_channels(tensors), classes_of(tensors, c.model))
    title = SCHEMES[network.scheme].title
    called = "" if network.scheme == "torch" else " and here by torchvision's or timm's names"
    where = f" of {network.name}, of {title}{called}," if network.prefix or called else ""
    leaves = match(present(whole, tensors, {"backbone"}), shapes, tensors, hints, where)
    kind, extra = _kind(file, network, c), {}
    if kind == "lincls" and file.tree.get("optimizer"):
        trained = [row for row in whole if row.part == "classifier"]
        leaves |= optimizer.read(file.tree["optimizer"], trained, leaves, c)
        c.optim.freeze = ("^backbone/",)
    if (best := number(file.tree, "best_acc1")) is not None:
        extra["best_acc1"] = best
    used = {"best_acc1", "optimizer"} if kind == "lincls" else {"best_acc1"}
    others = [name for name in file.others() if name not in used]
    report(network, found, file.tensors, heads + masked + others)
    return Contents(
        format=kind,
        config=c,
        leaves=leaves,
        encoder=file.record.get("encoder", network.role),
        epoch=number(file.tree, "epoch"),
        step=file.record.get("step", 0),
        extra=extra,
        partial=hints.partial,
    )


def _without_heads(tensors: Tensors, model: ConfigDict) -> tuple[Tensors, list[str]]:
    """Takes out a head that is no linear classifier, MoCo's for example, and gives its name."""
    name = classifier_name(model)
    head = {n for n in tensors if n.startswith(f"{name}.")}
    linear = {f"{name}.weight": 2, f"{name}.bias": 1}
    if not head or {n: tensors[n].ndim for n in head} == linear:
        return tensors, []
    return {n: t for n, t in tensors.items() if n not in head}, [f"the head {name!r}"]


def _without_decoder(tensors: Tensors, model: ConfigDict) -> tuple[Tensors, list[str]]:
    """Takes out what only the pre-training of a ViT by masked images needs, and says so."""
    if not model.name.startswith("vit"):
        return tensors, []
    out = {name: tensor for name, tensor in tensors.items() if not _MASKED.match(name)}
    parts = {name.removeprefix("embeddings.").split(".")[0] for name in tensors.keys() - out.keys()}
    return out, [f"what masked images need ({', '.join(sorted(parts))})"] if parts else []


def _kind(file: File, network: Network, c: ConfigDict) -> str:
    """What the file is called: key of FORMATS."""
    tree, classifier = file.tree, f"{classifier_name(c.model)}.weight" in network.tensors
    match tree.get("optimizer"):
        case {"param_groups": [{"params": list(trained)}]}:
            probe = len(trained) == 2
        case other:
            probe = not other and "best_acc1" in tree
    if classifier and probe:
        return "lincls"
    if network.scheme not in ("torch", "positions"):
        return network.scheme
    nested = any(isinstance(key, str) and "state_dict" in key for key in tree)
    if nested or file.others() or any(map(_MASKED.match, network.tensors)):
        return "training"
    vit = c.model.name.startswith("vit")
    if vit and network.prefix == "model." and len(networks(file.tensors)) == 1:
        return "deit"
    return "timm" if vit else "torchvision"


def write_flat(contents: Contents) -> StateDict:
    """The state dict of a torchvision or timm model, on top level; BatchNorm counts included."""
    return StateDict(_tensors(contents).items(), metadata={RECORD: record_of(contents)})


def write_deit(contents: Contents) -> dict[str, Any]:
    """What DeiT fine-tunes from.

    Raises:
      CheckpointError: the backbone is no Vision Transformer.
    """
    if contents.config.model.name.startswith("resnet"):
        raise CheckpointError("DeiT's format holds Vision Transformers, not ResNets")
    return {"model": OrderedDict(_tensors(contents)), RECORD: record_of(contents)}


def write_lincls(contents: Contents) -> dict[str, Any]:
    """A checkpoint of `main_lincls.py`: backbone, classifier, and the classifier's optimizer.

    Raises:
      CheckpointError: there is no classifier.
    """
    tensors = _tensors(contents, {"classifier"})
    state = optimizer.write(
        contents, [r for r in layout(contents.config) if r.part == "classifier"]
    )
    if state is None:
        log.warning("main_lincls.py --resume does not take this file: no optimizer state")
    tree: dict[str, Any] = {
        "epoch": int(contents.epoch or 0),
        "arch": arch_of(contents.config.model),
        "state_dict": OrderedDict((f"module.{name}", t) for name, t in tensors.items()),
        "best_acc1": np.asarray(contents.extra.get("best_acc1", 0.0), np.float32),
    }
    if state is not None:
        tree["optimizer"] = state
    return tree | {RECORD: record_of(contents)}


def write_detectron2(contents: Contents) -> dict[str, Any]:
    """What MoCo's own converter makes of a training file, the head included.

    Raises:
      CheckpointError: the backbone is no ResNet.
    """
    c = contents.config
    if not c.model.name.startswith("resnet"):
        raise CheckpointError("detectron2's format holds ResNets, not Vision Transformers")
    contents = complete(contents)
    top = rows(head(c.method.projector, classifier_name(c.model)), "projector", "projector")
    tensors = collect(layout(c) + top, contents, {"backbone"})
    return {
        "model": {detectron2_name(name): np.asarray(t) for name, t in tensors.items()},
        "__author__": "MOCO",
        "matching_heuristics": True,
        RECORD: record_of(contents),
    }


def detectron2_settings(contents: Contents) -> str:
    """The settings of detectron2 that go with such a file, which are not its defaults."""
    data = contents.config.data
    mean, std = (data.mean, data.std) if data.mean else pipeline.IMAGENET
    mean, std = (", ".join(f"{255 * x:.3f}" for x in numbers) for numbers in (mean, std))
    return (
        f"; in detectron2: INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [{mean}], MODEL.PIXEL_STD [{std}], "
        "MODEL.RESNETS.STRIDE_IN_1X1 False"
    )


def epsilon(contents: Contents) -> str:
    """What the user of a file has to know where it cannot say the epsilon of LayerNorm."""
    model = contents.config.model
    if not model.name.startswith("vit") or model.vit.norm_eps == NORM_EPS:
        return ""
    return (
        f"; it cannot say that LayerNorm's epsilon is {model.vit.norm_eps:g}: the model that loads "
        f"it needs eps={model.vit.norm_eps:g}, or its features differ ({NORM_EPS:g} is usual there)"
    )


def flat_note(contents: Contents) -> str:
    """What differs from the library's model of the same name, which then does not take the file."""
    r = contents.config.model.resnet
    if not contents.config.model.name.startswith("resnet"):
        return epsilon(contents)
    odd = [f"width {r.width:g}"] if r.width != 1 else []
    odd += ["a 3x3 first convolution and no pooling"] if r.stem == "cifar" else []
    if not odd:
        return ""
    return f"; torchvision and timm have no {contents.config.model.name} with {' and '.join(odd)}"


def _tensors(contents: Contents, required: set[str] = frozenset()) -> dict[str, np.ndarray]:
    return collect(layout(contents.config), complete(contents), {"backbone", *required})
