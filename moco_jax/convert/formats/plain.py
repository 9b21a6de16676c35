"""Files of one encoder: torchvision's, timm's, DeiT's, linear-probe checkpoints, detectron2's."""

import logging
import re
from collections import OrderedDict
from typing import Any

import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.convert import optimizer
from moco_jax.convert.arch import Hints, arch_of, classes_of, infer, input_channels
from moco_jax.convert.contents import Contents, complete, shapes_of
from moco_jax.convert.formats.pytorch import RECORD, File, collect, hints_of, number, record_of
from moco_jax.convert.match import match, present
from moco_jax.convert.names import Row, backbone, classifier, classifier_name, head, rows
from moco_jax.convert.topickle import StateDict
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)


def layout(c: ConfigDict) -> list[Row]:
    """The backbone and a classifier, in the order of the model's `state_dict()`."""
    body = rows(backbone(c.model), "backbone", "backbone")
    return body + rows(classifier(c.model), "classifier", "classifier")


def read(file: File, hints: Hints) -> Contents:
    """Reads a file of one encoder, with or without a classifier on top."""
    tensors = file.tensors
    c = infer(tensors, hints_of(file, hints))
    whole = layout(c)
    shapes = shapes_of(c, input_channels(tensors), classes_of(tensors, c.model))
    leaves = match(present(whole, tensors, {"backbone"}), shapes, tensors, hints.partial)
    extra = {}
    if file.tree.get("optimizer") and "params/classifier/kernel" in leaves:
        trained = [row for row in whole if row.part == "classifier"]
        leaves |= optimizer.read(file.tree["optimizer"], trained, leaves, c)
        c.optim.freeze = ("^backbone/",)
    if (best := number(file.tree, "best_acc1")) is not None:
        extra["best_acc1"] = best
    flat = "torchvision" if c.model.name.startswith("resnet") else "timm"
    return Contents(
        format={"": flat, "state_dict": "lincls", "model": "deit"}[file.wrapper],
        config=c,
        leaves=leaves,
        encoder=file.record.get("encoder", "query"),
        epoch=number(file.tree, "epoch"),
        step=file.record.get("step", 0),
        extra=extra,
        partial=hints.partial,
    )


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
        "model": {_detectron2_name(name): np.asarray(t) for name, t in tensors.items()},
        "__author__": "MOCO",
        "matching_heuristics": True,
        RECORD: record_of(contents),
    }


def _tensors(contents: Contents, required: set[str] = frozenset()) -> dict[str, np.ndarray]:
    return collect(layout(contents.config), complete(contents), {"backbone", *required})


def _detectron2_name(name: str) -> str:
    if "layer" not in name:
        name = f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
