"""`config.init`: a run's first state, from a checkpoint of any format.

A training file of the same method is continued, optimizer and all; of other files the networks are
taken. What is taken, what is not and what stays random is logged.
"""

import collections
import logging
from collections.abc import Iterable

import jax
import numpy as np

from moco_jax import convert
from moco_jax.bucket import Place
from moco_jax.checkpoint import compare, named
from moco_jax.config import INIT_PARTS, ConfigDict, choose
from moco_jax.convert.contents import ONLINE, ROLES, TARGET, Contents, complete, heads_of, select
from moco_jax.convert.formats.ours import in_state, optimizer_leaf, save_imported, spread
from moco_jax.convert.match import SHOWN
from moco_jax.convert.position import resize
from moco_jax.errors import CheckpointError, InputError
from moco_jax.training.experiment import Experiment, abstract_state, fresh_state
from moco_jax.training.step import TrainState

log = logging.getLogger(__name__)

Leaves = dict[str, np.ndarray]
NETWORKS = ("backbone", "projector", "predictor", "prototypes", "classifier")
# What a leaf belongs to, by how its name begins.
PARTS = {
    "params/backbone/": "backbone",
    "params/projector/": "projector",
    "params/predictor/": "predictor",
    "params/prototypes/": "prototypes",
    "params/classifier/": "classifier",
    "method_state/target/params/backbone/": "key backbone",
    "method_state/target/params/projector/": "key projector",
    "method_state/queue": "queue",
    "method_state/bank": "memory bank",
    "opt": "optimizer",
}
# How messages call what the reader of the file can be told.
OPTIONS = {"encoder": "config.init_encoder=NAME", "partial": "config.init_partial=True"}
HINT = "config.init_part='backbone' takes the backbone alone, 'weights' all but the optimizer."


def first_state(x: Experiment, workdir: Place) -> TrainState:
    """The state before the first step: random, or from `config.init`.

    Args:
      x: the experiment.
      workdir: where what the file holds beyond a TrainState is kept, for the way back.

    Raises:
      InputError: an unknown value, or the training in the file is longer than the run.
      MissingError: there is no such file.
      CheckpointError: the file cannot be read, or holds other networks than the run's.
    """
    part = choose("init_part", x.config.init_part, INIT_PARTS)
    if not x.config.init:
        return fresh_state(x)
    wanted = named(abstract_state(x))
    contents = _fit_position(_read(x.config), x.config)
    if x.own:
        return _filled(x, _adopted(contents, wanted, x))
    taken = _networks(_backbone(contents) if part == "backbone" else contents, wanted)
    same = x.config.protocol == "pretraining" and contents.method == x.config.method.name
    if part == "all" and same and contents.holds("optimizer/"):
        step = _step(contents, x)
        taken |= _of_size(contents, wanted, "method_state/bank", "method_state/log_z")
        taken |= _optimizer(contents, wanted, x.config, step)
        if jax.process_index() == 0:
            save_imported(contents._replace(step=step), workdir)
    _report(contents, wanted, taken)
    return _filled(x, taken)


def _filled(x: Experiment, taken: Leaves) -> TrainState:
    """The state with what is taken, the rest of it random."""
    like = abstract_state(x)
    wanted = named(like)
    # Nothing is made that would be replaced.
    leaves = {} if taken.keys() >= wanted.keys() else named(fresh_state(x))
    for name, value in taken.items():
        value = np.asarray(value, wanted[name].dtype)
        leaves[name] = jax.make_array_from_callback(
            value.shape, wanted[name].sharding, value.__getitem__
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def _read(config: ConfigDict) -> Contents:
    vit = config.model.name.startswith("vit")
    contents = convert.read(
        config.init,
        heads=heads_of(config.model) if vit else None,
        encoder=config.init_encoder or None,
        partial=config.init_partial,
        options=OPTIONS,
    )
    if config.init_encoder in ROLES:
        contents = select(contents, config.init_encoder)
    found = contents.config.model
    if vit and found.name.startswith("vit") and heads_of(found) != heads_of(config.model):
        raise CheckpointError(
            f"{config.init}: {heads_of(found)} attention heads, {heads_of(config.model)} in the run"
        )
    there, here = found.vit.norm_eps, config.model.vit.norm_eps
    if vit and found.name.startswith("vit") and there != here:
        log.warning(
            "%s: LayerNorm's epsilon is %g in it and %g in the run; its own is "
            "--config.model.vit.norm_eps=%g", config.init, there, here, there,
        )  # fmt: skip
    return contents


def _fit_position(contents: Contents, config: ConfigDict) -> Contents:
    """The contents with a position embedding for the run's grid and of the run's kind."""
    if not all(c.model.name.startswith("vit") for c in (contents.config, config)):
        return contents
    there, here = contents.config.model.vit.position, config.model.vit.position
    contents = resize(contents, config.data.image_size)
    if there == here:
        return contents
    if (there, here) != ("sincos", "learned"):
        raise CheckpointError(f"{config.init}: position embedding {there!r}, {here!r} in the run")
    log.info("Position embedding: fixed in the file, trained from here on")
    places = {places["constants"]: places["params"] for places in (ONLINE, TARGET)}
    leaves = {}
    for name, leaf in complete(contents).leaves.items():
        first, _, rest = name.partition("/")
        leaves[f"{places.get(first, first)}/{rest}" if rest else name] = leaf
    return contents._replace(leaves=leaves)


def _backbone(contents: Contents) -> Contents:
    prefixes = ("params/backbone/", "method_state/stats/backbone/")
    leaves = {name: leaf for name, leaf in contents.leaves.items() if name.startswith(prefixes)}
    return contents._replace(leaves=leaves)


def _adopted(contents: Contents, wanted: Leaves, x: Experiment) -> Leaves:
    """The backbone's arrays where the run's protocol has them; says what is taken and what not."""
    leaves = {x.own.renamed(name): leaf for name, leaf in _backbone(contents).leaves.items()}
    taken = _take(contents._replace(leaves=leaves), wanted, *x.own.taken)
    if not taken:
        raise CheckpointError(f"init={x.config.init!r}: there is no backbone in the file")
    own = {name for name in wanted if name.startswith(("params/", "method_state/stats/"))}
    log.info("Taken from %s: %s", x.config.init, _counted(taken))
    log.info("At their first values: %s", _counted(own - taken.keys()) or "none")
    return taken


def _counted(names: Iterable[str]) -> str:
    """Arrays by the network that they are of: '53 of backbone, 2 of predictor'."""
    parts = [name.removeprefix("method_state/stats/").removeprefix("params/") for name in names]
    counts = collections.Counter(part.partition("/")[0] for part in parts)
    return ", ".join(f"{count} of {part}" for part, count in sorted(counts.items()))


def _networks(contents: Contents, wanted: Leaves) -> Leaves:
    """Parameters and statistics of the networks that the file and the run both have, and the queue.

    A key encoder that the file lacks starts as a copy of the query encoder.
    """
    taken: Leaves = {}
    for network in NETWORKS:
        take = _of_size if network == "classifier" else _take
        taken |= take(contents, wanted, f"params/{network}/", f"method_state/stats/{network}/")
    if "backbone" not in {name.split("/")[1] for name in taken}:
        raise CheckpointError("init: there is no backbone in the file")
    for network in NETWORKS:
        prefixes = [f"method_state/target/{kind}/{network}/" for kind in ("params", "stats")]
        found = _take(contents, wanted, *prefixes)
        copied = {} if found else _copies(taken, wanted, *prefixes)
        if copied:
            log.info("Key %s: a copy of the query encoder's", network)
        taken |= found | copied
    return taken | _of_size(contents, wanted, "method_state/queue")


def _of_size(contents: Contents, wanted: Leaves, *prefixes: str) -> Leaves:
    """As `_take`, of what has another size in another run: classes, keys, images.

    Nothing, and a line, where the sizes differ: all else of the file is of use still.
    """
    there, here = (
        {name: leaf for name, leaf in leaves.items() if name.startswith(prefixes)}
        for leaves in (contents.leaves, wanted)
    )
    shared = sorted(there.keys() & here.keys())
    differ = [name for name in shared if there[name].shape != here[name].shape]
    if not differ or contents.partial:
        return _take(contents, wanted, *prefixes)
    name = differ[0]
    log.warning(
        "%s: shape %s in the file, %s in the run: made anew, all else is taken",
        name, there[name].shape, here[name].shape,
    )  # fmt: skip
    return {}


def _take(contents: Contents, wanted: Leaves, *prefixes: str) -> Leaves:
    """The leaves under the prefixes, with as many BatchNorm groups as the run has.

    Nothing, where the file or the run has nothing there; an error, where they do not fit.
    """
    here = {name: leaf for name, leaf in wanted.items() if name.startswith(prefixes)}
    there = {
        name: leaf
        for name, leaf in contents.leaves.items()
        if name.startswith(prefixes) and in_state(name)
    }
    if not here or not there:
        return {}
    for name in there.keys() & here.keys():
        if "/stats/" in name:
            there[name] = spread(there[name], here[name].shape[0])
    if contents.partial:
        return _fitting(there, here)
    _demand_equal(there, here)
    return there


def _fitting(there: Leaves, here: Leaves) -> Leaves:
    """The leaves that both have in the same shape; says which of them that leaves out."""
    if lines := compare(there, here):
        log.warning("Does not fit, and stays random:\n%s", "\n".join(lines[:SHOWN]))
    names = there.keys() & here.keys()
    return {name: there[name] for name in names if there[name].shape == here[name].shape}


def _copies(taken: Leaves, wanted: Leaves, *prefixes: str) -> Leaves:
    """The query encoder's leaves under the names of the key encoder."""
    out = {}
    for name in wanted:
        if name.startswith(prefixes):
            rest = name.removeprefix("method_state/target/")
            source = rest if rest.startswith("params/") else f"method_state/{rest}"
            if source in taken:
                out[name] = taken[source]
    return out


def _step(contents: Contents, x: Experiment) -> int:
    """The updates that the run starts with: the file stands at as many passes over the data."""
    epochs = contents.epoch
    position = contents.position if epochs is None else round(epochs * x.steps_per_epoch)
    if position >= x.steps:
        raise InputError(
            f"init={x.config.init!r} stands at step {position}, and the run has {x.steps} (epochs="
            f"{x.config.epochs:g}); init_part='weights' starts anew from its weights"
        )
    return max(0, position - (contents.position - contents.step))


def _optimizer(contents: Contents, wanted: Leaves, config: ConfigDict, step: int) -> Leaves:
    """The state of the optimizer, and the counts of steps."""
    there, here = contents.config.optim.name, config.optim.name
    if there != here:
        raise CheckpointError(f"{config.init}: state of optimizer {there!r}, not {here!r}. {HINT}")
    names = {n: optimizer_leaf(n, wanted) for n in wanted if n.startswith("opt_state/")}
    skipped = contents.leaves.get("skipped", np.zeros(2, np.int32))
    counts = {"step": np.int32(step)}
    saved = {n: leaf for n, leaf in contents.leaves.items() if n.startswith("optimizer/")} | counts
    _demand_equal(saved, {source: wanted[name] for name, source in names.items()})
    taken = {name: saved[source] for name, source in names.items()}
    return taken | counts | {"skipped": skipped}


def _demand_equal(there: Leaves, here: Leaves) -> None:
    lines = compare(there, here)
    if lines:
        more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        text = "\n".join(lines[:SHOWN] + more)
        raise CheckpointError(f"init: the file is of another network than the run:\n{text}\n{HINT}")


def _report(contents: Contents, wanted: Leaves, taken: Leaves) -> None:
    """Logs by part what is taken, what stays random, and what in the file is not used."""

    def parts(names: Iterable[str]) -> list[str]:
        names = list(names)
        return [
            part for start, part in PARTS.items() if any(name.startswith(start) for name in names)
        ]

    log.info("Taken: %s", ", ".join(parts(taken)))
    if rest := parts(wanted.keys() - taken.keys()):
        log.info("Random as in a new run: %s", ", ".join(rest))
    unused = {n for n in contents.leaves.keys() - taken.keys() if in_state(n)}
    if "step" not in taken:
        unused |= {n for n in contents.leaves if n.startswith("optimizer/")}
        log.info("A new run, from step 0 on")
    if unused := parts(unused):
        log.info("Not used: %s", ", ".join(unused))
