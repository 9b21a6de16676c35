"""Checkpoints of this package: a workdir, or one of its steps.

What PyTorch's files hold and a TrainState does not (counts of batches, the bits of a position
embedding that we compute) lies beside the checkpoints in `imported.safetensors`, so that nothing is
lost on the way back.
"""

import contextlib
import json
import logging
import pathlib
import re
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from moco_jax import checkpoint, config, metrics
from moco_jax.bucket import Place, filled
from moco_jax.config import ConfigDict
from moco_jax.convert import safetensors
from moco_jax.convert.contents import Contents, views_per_step
from moco_jax.convert.torchfile import release
from moco_jax.errors import CheckpointError
from moco_jax.identity import upgraded
from moco_jax.methods.networks import make_networks
from moco_jax.models.norm import BatchNorm
from moco_jax.optim import make_optimizer
from moco_jax.protocols.heads import OWN, describe_head

log = logging.getLogger(__name__)

IMPORTED = "imported.safetensors"


def is_ours(path: Place) -> bool:
    """Whether a folder is a workdir or one of its steps."""
    return (path / "checkpoints").is_dir() or (path / "state").is_dir()


def read(path: pathlib.Path) -> Contents:
    """Reads the newest step of a workdir, or the step that `path` is.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    step = _step(path)
    arrays, meta = checkpoint.read(step)
    c, found = _config(meta["config"]), meta["config"].get("found", {})
    if c.protocol == "supervised" and not c.supervised.train_backbone:
        arrays = _one_head(arrays, c, found.get("head"), step)
    leaves = {optimizer_leaf(name, arrays): leaf for name, leaf in arrays.items()}
    number = int(leaves.pop("step"))
    workdir = step.parent.parent
    kept, about = load_imported(workdir)
    batches = (number - about.get("step", number)) * views_per_step(c)
    for name, leaf in kept.items():
        leaves[name] = np.asarray(leaf + batches) if name.endswith("/count") else leaf
    position = number + int(leaves.get("skipped", np.zeros(2))[0])
    epoch = _epoch(workdir, position)
    training = any("/target/" in name or name.startswith("optimizer/") for name in leaves)
    return Contents(
        format="ours",
        config=c,
        leaves=leaves,
        method=c.method.name if training and c.protocol == "pretraining" else "",
        encoder=about.get("encoder", "query"),
        epoch=about.get("epoch") if epoch is None else epoch,
        step=number,
        extra=about.get("extra", {}),
        classes=tuple(found.get("classes", ())),
        categories=tuple(found.get("category_ids", ())),
    )


def config_of(path: Place) -> ConfigDict:
    """The config of the newest step of a workdir, or of the step that `path` is.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    return _config(checkpoint.read_config(_step(path)))


def _one_head(
    arrays: dict[str, np.ndarray], c: ConfigDict, head: int | None, step: pathlib.Path
) -> dict[str, np.ndarray]:
    """The leaves of a linear probe with one of its heads: the chosen, else the protocol's own.

    Where the head follows a BatchNorm, that becomes part of its weights, and the state of the
    optimizer, which is of other weights, is left out. The head's learning rate goes into `c`.
    """
    if head is None:
        log.warning("%s: no head had been chosen; taken is the protocol's own", step)
        head = OWN
    about = describe_head(c, head)
    log.info("Head %d, %s", head, about)
    c.optim.base_lr = about["base_lr"]
    batched = ("params/classifier/", "opt_state/")
    leaves = {n: leaf[head] if n.startswith(batched) else leaf for n, leaf in arrays.items()}
    leaves.pop("method_state/alive", None)
    mean, var = (leaves.pop(f"method_state/stats/classifier/{n}", None) for n in ("mean", "var"))
    if about["batch_norm"]:
        kernel, bias = (f"params/classifier/{n}" for n in ("kernel", "bias"))
        gain = 1 / np.sqrt(var[0].astype(np.float64) + BatchNorm.epsilon)
        folded = leaves[kernel] * gain[:, None]
        offset = leaves[bias] - mean[0].astype(np.float64) @ folded
        leaves = {n: leaf for n, leaf in leaves.items() if not n.startswith("opt_state/")}
        leaves |= {kernel: folded.astype(np.float32), bias: offset.astype(np.float32)}
    return leaves


def write(contents: Contents, workdir: pathlib.Path) -> None:
    """Writes a workdir with one checkpoint, that of `contents.step`.

    Its config says what the contents say, and defaults otherwise. Where the contents are those of
    a whole training state, a run of such a config goes on from there.
    """
    c = contents.config
    groups = make_networks(c).backbone.bn_groups
    leaves: dict[str, Any] = {"step": np.int32(contents.step), "skipped": np.zeros(2, np.int32)}
    for name, leaf in contents.leaves.items():
        if name.startswith("method_state/") and name.endswith(("/mean", "/var")):
            leaf = spread(leaf, groups)
        if name.startswith(("params/", "method_state/", "skipped")) and in_state(name):
            leaves[name] = leaf
    if contents.holds("optimizer/"):
        leaves |= _optimizer_state(contents)
    leaves = {name: _to_jax(leaf) for name, leaf in leaves.items()}
    with contextlib.closing(checkpoint.Checkpoints(workdir, c.checkpoint)) as store:
        tree = traverse_util.unflatten_dict(leaves, sep="/")
        store.save(contents.position, tree, config.as_json(c))
        store.wait()
    save_imported(contents, workdir)


def _to_jax(leaf: np.ndarray) -> jax.Array:
    """A leaf in memory of its own: Orbax copies NumPy's arrays once more, JAX's it does not."""
    array = jax.device_put(np.asarray(leaf, order="C"))
    release(leaf)
    return array


def optimizer_leaf(name: str, names: Collection[str]) -> str:
    """What `Contents` call a leaf of a TrainState; the place in optax's chain is taken out.

    Args:
      name: such as 'opt_state/inner_states/trained/inner_state/1/trace/backbone/conv1/kernel'.
      names: of all leaves.

    Returns:
      Such as 'optimizer/trace/backbone/conv1/kernel'; 'step' for the schedule's count.
    """
    if not name.startswith("opt_state/"):
        return name
    if found := re.search(r"/(trace|mu|nu)/(.+)$", name):
        return f"optimizer/{found[1]}/{found[2]}"
    moments = name.removesuffix("count") + "mu/"
    return "optimizer/count" if any(other.startswith(moments) for other in names) else "step"


def spread(statistic: np.ndarray, groups: int) -> np.ndarray:
    """BatchNorm statistics (any G, C) for `groups` groups: each gets the mean, unless G fits."""
    if len(statistic) == groups:
        return statistic
    mean = np.mean(statistic, axis=0, dtype=np.float64).astype(statistic.dtype)
    return np.broadcast_to(mean, (groups, *mean.shape))


def in_state(name: str) -> bool:
    """Whether a TrainState has such a leaf."""
    outside = ("constants/", "target_constants/", "optimizer/", "params/pooler/")
    return not name.startswith(outside) and not ("/stats/" in name and name.endswith("/count"))


def save_imported(contents: Contents, workdir: Place) -> None:
    """Writes what a TrainState of these contents does not hold.

    Args:
      contents: what was read from a file.
      workdir: of the run.
    """
    kept = {
        name: leaf
        for name, leaf in contents.leaves.items()
        if not in_state(name) and not name.startswith("optimizer/")
    }
    about = {
        "step": contents.step, "epoch": contents.epoch, "encoder": contents.encoder,
        "source": contents.format, "extra": contents.extra,
    }  # fmt: skip
    with filled(workdir / IMPORTED) as path, open(path, "wb") as file:
        safetensors.save(kept, {"about": json.dumps(about)}, file)


def load_imported(workdir: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save_imported` wrote; empty where nothing was imported."""
    if not (workdir / IMPORTED).is_file():
        return {}, {}
    kept, metadata = safetensors.read(workdir / IMPORTED)
    return kept, safetensors.parse(metadata, "about")


def _optimizer_state(contents: Contents) -> dict[str, np.ndarray]:
    """The optimizer state under the names that optax gives it."""
    params = {
        name.removeprefix("params/"): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in contents.leaves.items()
        if name.startswith("params/")
    }
    params = traverse_util.unflatten_dict(params, sep="/")
    tx = make_optimizer(contents.config.optim, params, optax.constant_schedule(0.0))
    state = checkpoint.named({"opt_state": jax.eval_shape(tx.init, params)})
    leaves = contents.leaves | {"step": np.int32(contents.step)}
    return {name: leaves[optimizer_leaf(name, state)] for name in state}


def _step(path: Place) -> Place:
    return (path if (path / "state").is_dir() else _newest(path)).absolute()


def _newest(workdir: Place) -> Place:
    steps = [p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    if not steps:
        raise CheckpointError(f"there is no checkpoint in {workdir}")
    return max(steps, key=lambda p: int(p.name))


def _config(saved: dict[str, Any]) -> ConfigDict:
    """The saved config; what was added to or taken from the options since has its default."""
    c = config.default()

    def update(record: ConfigDict, values: dict[str, Any]) -> None:
        for name in values.keys() & record.keys():
            if isinstance(record[name], ConfigDict):
                update(record[name], values[name])
            else:
                record[name] = values[name]

    update(c, upgraded(saved))
    return c


def _epoch(workdir: pathlib.Path, position: int) -> float | None:
    """Passes over the data at a position, from the run's metrics; None where there are none."""
    if not (workdir / metrics.FILE).is_file():
        return None
    rows = [row for row in metrics.read(workdir) if row.get("step")]
    return position * rows[-1]["epoch"] / rows[-1]["step"] if rows else None
