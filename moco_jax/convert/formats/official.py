"""The training files of MoCo's releases: v1 and v2, v3, and the CIFAR-10 demonstration.

All hold the query encoder, the key encoder and, in v1 and v2, the queue; their heads take the place
of the classifier. The first release of the weights holds the query encoder alone.
"""

import logging
from collections import OrderedDict
from typing import Any

from moco_jax.config import ConfigDict, choose
from moco_jax.convert import optimizer
from moco_jax.convert.arch import Tensors, arch_of, infer, infer_head, input_channels
from moco_jax.convert.contents import (
    ROLES,
    Contents,
    complete,
    heads_of,
    shapes_of,
    views_per_step,
    width_of,
)
from moco_jax.convert.formats.pytorch import RECORD, File, collect, hints_of, number, record_of
from moco_jax.convert.hints import Hints
from moco_jax.convert.lookalike import assume, check
from moco_jax.convert.match import match, present
from moco_jax.convert.names import ONLINE, TARGET, Row, backbone, classifier_name, head, rows
from moco_jax.convert.recognize import networks
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

PREFIXES = {  # of the query and the key encoder
    "moco": ("encoder_q.", "encoder_k."),
    "moco_v3": ("base_encoder.", "momentum_encoder."),
}
# What stands before the names of a release's encoder, whose it is, and what else such a file holds.
MARKS = {
    "encoder_q.net.": ("cifar_demo", (*PREFIXES["moco"], "queue")),
    "encoder_q.": ("moco", (*PREFIXES["moco"], "queue")),
    "base_encoder.": ("moco_v3", (*PREFIXES["moco_v3"], "predictor.")),
}
# What torch.cuda.amp.GradScaler starts from; the code of v3 asks for it when it resumes.
SCALER = {
    "scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
    "_growth_tracker": 0,
}  # fmt: skip
OFFICIAL_HEADS = {384: 12, 768: 12}


def layout(c: ConfigDict, method: str) -> list[Row]:
    """All tensors of a training file, in the order of the code's `state_dict()`.

    Args:
      c: the config.
      method: 'moco' or 'moco_v3'.
    """
    queue = ("method_state/queue", ("queue",), "matrix", "queue", False)
    pointer = ("method_state/queue_ptr", ("queue_ptr",), "pointer", "queue", False)
    out = [Row(*queue), Row(*pointer)] if method == "moco" else []
    encoders = zip(("query", "key"), PREFIXES[method], (ONLINE, TARGET))
    name = classifier_name(c.model)
    for who, prefix, places in encoders:
        where = {"prefix": prefix, "collections": places}
        out += rows(backbone(c.model), "backbone", f"{who} backbone", **where)
        out += rows(head(c.method.projector, name), "projector", f"{who} projector", **where)
    out += rows(head(c.method.predictor, "predictor"), "predictor", "predictor")
    return out


def training_of(file: File) -> tuple[File, str] | None:
    """The file with a release's names, without their place, and whose; None where it is none.

    It is one where an encoder has the release's name, and all beside it is the release's too.
    """
    for network in networks(file.tensors):
        for mark, (form, held) in MARKS.items():
            outer = network.prefix.removesuffix(mark)
            if network.prefix != outer + mark or (outer and not outer.endswith(".")):
                continue
            inside = {
                n.removeprefix(outer): t for n, t in file.tensors.items() if n.startswith(outer)
            }
            if all(name.startswith(held) for name in inside):
                tensors = _flat(inside) if form == "cifar_demo" else inside
                place = outer.partition(".")[0]  # '' where the weights lie at the top
                rest = {key: value for key, value in file.tree.items() if key != place}
                return file._replace(tree=rest, tensors=tensors), form
    return None


def read(file: File, form: str, hints: Hints) -> Contents:
    """Reads a training file of v1 and v2 (`form` 'moco' or 'cifar_demo') or of v3 ('moco_v3').

    Args:
      file: the training file.
      form: 'moco', 'cifar_demo' or 'moco_v3'.
      hints: what it may leave open.
    """
    if hints.encoder:
        choose("encoder", hints.encoder, ROLES)
    method = "moco" if form == "cifar_demo" else form
    tensors, prefix = file.tensors, PREFIXES[method][0]
    query = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    hints = hints_of(file, hints)
    c = _config(query, tensors, hints, method)
    check(file.arch, arch_of(c.model), hints)
    whole = layout(c, method)
    there = present(whole, tensors, {"query backbone"})
    leaves = match(there, shapes_of(c, input_channels(query)), tensors, hints)
    assume(file.arch, arch_of(c.model), hints)
    if file.tree.get("optimizer"):
        if there == whole and leaves.keys() >= {row.ours for row in whole}:
            leaves |= optimizer.read(file.tree["optimizer"], whole, leaves, c)
        else:
            log.warning("Left out: the optimizer state, because it is of more than is there")
    if others := [name for name in file.others() if name not in ("optimizer", "scaler")]:
        log.info("Left out: %s", ", ".join(others))
    seen = [int(leaf) for n, leaf in leaves.items() if n.endswith("/count") and "/stats/" in n]
    step = leaves.get("optimizer/count", max(seen, default=0) // views_per_step(c))
    return Contents(
        format=form,
        config=c,
        leaves=leaves,
        method=method,
        epoch=number(file.tree, "epoch"),
        step=int(step),
        extra=_extra(file.tree),
        partial=hints.partial,
    )


def _flat(tensors: Tensors) -> Tensors:
    """The demonstration's tensors without its Sequential, whose positions are named."""
    out = {n: t for n, t in tensors.items() if not n.startswith(PREFIXES["moco"])}
    for network in networks(tensors):
        place = network.prefix.removesuffix("net.")
        out |= {place + name: tensor for name, tensor in network.tensors.items()}
    return out


def write(contents: Contents, method: str) -> dict[str, Any]:
    """The tree of a training file that the official code resumes from.

    Args:
      contents: of a whole training.
      method: 'moco' or 'moco_v3'.

    Raises:
      CheckpointError: the official code has no such model, or the query encoder is not complete.
    """
    c = contents.config
    if contents.encoder != "query":
        raise CheckpointError("a training file holds both encoders; there is only the key encoder")
    if contents.method not in ("", method):
        raise CheckpointError(f"a {contents.method} training is not one of {method}")
    _check(contents, method)
    contents = complete(contents)
    whole = layout(c, method)
    tensors = collect(whole, contents, {"query backbone"})
    absent = sorted({row.part for row in whole if row.theirs[0] not in tensors})
    state = optimizer.write(contents, whole)
    if absent or state is None:
        log.warning(
            "main_lincls.py --pretrained takes this file, main_moco.py --resume does not: no %s",
            ", ".join([*absent, *([] if state else ["optimizer state"])]),
        )
    if contents.epoch is None:
        log.warning("How many epochs this was is not known: 0 is written")
    tree: dict[str, Any] = {
        "epoch": int(contents.epoch or 0),
        "arch": arch_of(c.model),
        "state_dict": OrderedDict((f"module.{name}", t) for name, t in tensors.items()),
    }
    if state is not None:
        tree["optimizer"] = state
    if method == "moco_v3":
        tree["scaler"] = contents.extra.get("scaler", SCALER)
    return tree | {RECORD: record_of(contents)}


def _config(query: Tensors, tensors: Tensors, hints: Hints, method: str) -> ConfigDict:
    """What the names and shapes say of the recipe; `query` are the query encoder's."""
    c = infer(query, hints._replace(official=method == "moco_v3"))
    c.method.name = method
    heads = {
        "projector": infer_head(query, classifier_name(c.model)),
        "predictor": infer_head(tensors, "predictor"),
    }
    c.method.update({name: record for name, record in heads.items() if record is not None})
    if method == "moco_v3":
        c.method.update(bn_group_size=0, ema_schedule="cosine")
    if "queue" in tensors:
        c.method.queue_size = tensors["queue"].shape[-1]
    return c


def _extra(tree: dict[str, Any]) -> dict[str, Any]:
    """What a file has beside tensors that is worth keeping."""
    extra: dict[str, Any] = {}
    scaler = tree.get("scaler")
    if isinstance(scaler, dict) and all(isinstance(v, int | float) for v in scaler.values()):
        extra["scaler"] = dict(scaler)
    match tree.get("optimizer"):
        case {"param_groups": [{"lr": float(rate)}]}:
            extra["lr"] = rate
    return extra


def _check(contents: Contents, method: str) -> None:
    """Raises CheckpointError where the official code cannot build the network."""
    m, heads = contents.config.model, contents.config.method
    vit = m.name.startswith("vit")
    plain = {"bias": True, "bn": False, "last_bn": False}
    normed = {"bias": False, "bn": True}
    if method == "moco":
        wanted = {"projector": plain | {"layers": min(heads.projector.layers, 2) or 1}}
    else:
        wanted = {
            "projector": normed | {"layers": 3 if vit else 2, "last_bn": True},
            "predictor": normed | {"layers": 2, "last_bn": vit},
        }
    problems = [
        f"method.{name}.{field} is {heads[name][field]}, not {value}"
        for name, fields in wanted.items()
        for field, value in fields.items()
        if contents.method and heads[name][field] != value
    ]
    if vit and method == "moco":
        problems.append("it has ResNets only")
    elif vit:
        fields = {"pool": "cls", "position": "sincos", "norm": "layer"}
        problems += [f"{f} is {m.vit[f]}, not {v}" for f, v in fields.items() if m.vit[f] != v]
        width, count = width_of(m), heads_of(m)
        if OFFICIAL_HEADS.get(width, count) != count:
            problems.append(f"its ViT of width {width} has 12 heads, not {count}")
    if problems:
        raise CheckpointError(f"the official code cannot build this network: {'; '.join(problems)}")
