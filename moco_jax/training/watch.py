"""What a run measures while it goes on, and at its end: kNN, test accuracy, an unchanged backbone.

N images, F features.
"""

import hashlib
import json
import logging
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from moco_jax import results
from moco_jax.checkpoint import checksums_of, named
from moco_jax.data.source import ArraySource, Source
from moco_jax.errors import CheckpointError
from moco_jax.evals.accuracy import Accuracy, report
from moco_jax.evals.extraction import extract
from moco_jax.protocols.supervised import describe_head
from moco_jax.training.experiment import (
    Experiment,
    eval_batches,
    make_accuracy,
    make_encode,
    make_monitor,
    make_pixels,
    on_features,
)
from moco_jax.training.step import TrainState

log = logging.getLogger(__name__)

BACKBONE = ("params/backbone/", "method_state/stats/backbone/")
CHECKSUMS = "backbone.json"
TITLES = {"linear": "Linear probe", "finetune": "Fine-tuning"}


class Watch(NamedTuple):
    """A measurement.

    Attributes:
      every: steps between two; 0: at the start and the end only.
      measure: (state, position) -> what a row of metrics gets; position 0 is before the first step.
    """

    every: float
    measure: Callable[[TrainState, int], dict[str, float]]

    def is_due(self, position: int) -> bool:
        """Whether the step to `position` completed another interval."""
        return bool(self.every) and position // self.every > (position - 1) // self.every


def make_watches(x: Experiment, workdir: pathlib.Path, encode: Callable) -> list[Watch]:
    """The measurements of a run, in their order; `encode` is `make_encode`'s."""
    c, epoch = x.config, x.steps_per_epoch
    watches = []
    if not on_features(c):
        watches.append(Watch(c.knn.every_epochs * epoch, _knn(x, workdir, encode)))
    if x.method.heads:
        watches.append(Watch(0, _unchanged(x, workdir)))
    if x.method.classify:
        watches.append(Watch(c.supervised.every_epochs * epoch, _accuracy(x, workdir)))
    return watches


def _knn(
    x: Experiment, workdir: pathlib.Path, encode: Callable
) -> Callable[[TrainState, int], dict[str, float]]:
    monitor = make_monitor(x)

    def measure(state: TrainState, position: int) -> dict[str, float]:
        raw = monitor.measure("knn_top1_raw", make_pixels(x)) if position == 0 else {}
        row = raw | monitor.measure("knn_top1", partial(encode, state))
        if position == x.steps:
            monitor.save(workdir, position, x.config.seed)
        return row

    return measure


def _accuracy(x: Experiment, workdir: pathlib.Path) -> Callable[[TrainState, int], dict]:
    """Accuracy on all test images; the one at the end goes into results.json."""
    measure_split = make_accuracy(x)

    def measure(state: TrainState, position: int) -> dict[str, float]:
        if position == 0:  # what is wrong with the evaluation shows before the training
            measure_split(state, x.data.test, x.config.data.eval_batch_size)
            return {}
        test = measure_split(state, x.data.test)
        held_out = measure_split(state, x.held_out) if x.held_out else None
        row = report(test, held_out)
        if position == x.steps and jax.process_index() == 0:
            _add_result(x, workdir, row, test, held_out)
        return row

    return measure


def _add_result(
    x: Experiment, workdir: pathlib.Path, row: dict, test: Accuracy, held_out: Accuracy | None
) -> None:
    c = x.config
    kind = "linear" if x.method.heads else "finetune"
    protocol = f"{x.method.recipe}; {c.optim.name}, {c.optim.schedule}, {c.epochs:g} epochs"
    settings = {
        "init": c.init or "random", "batch_size": c.data.batch_size,
        "label_share": c.data.label_share, "base_lr": c.optim.base_lr,
    }  # fmt: skip
    if held_out:
        heads = [describe_head(c, i) for i in range(len(x.method.heads))]
        tops = [{"held_out_top1": float(top1)} for top1 in held_out.top1]
        settings["held_out"] = len(x.held_out)
        settings["sweep"] = [head | top for head, top in zip(heads, tops, strict=True)]
        settings["chosen"] = heads[row["head"]]
    metrics = {name.removeprefix("test_"): v for name, v in row.items() if name != "head"}
    results.add(workdir, kind, protocol=protocol, settings=settings, seed=c.seed,
                split=f"test images of {c.data.source}", examples=test.examples,
                metrics=metrics)  # fmt: skip


def describe_result(record: dict[str, Any]) -> str:
    """One line of a result, for the end of a run."""
    settings, metrics = record["settings"], record["metrics"]
    text = f"{TITLES[record['evaluation']]}: "
    text += ", ".join(f"{name} {value:.1%}" for name, value in metrics.items())
    if "chosen" in settings:
        chosen, rate = settings["chosen"], settings["base_lr"]
        norm = " after BatchNorm" if chosen["batch_norm"] else ""
        text += f"; held-out images chose base rate {chosen['base_lr']:g}{norm}, own is {rate:g}"
    return f"{text} ({record['examples']} {record['split']})"


def _unchanged(x: Experiment, workdir: pathlib.Path) -> Callable[[TrainState, int], dict]:
    """Checks at the end that not one bit of the backbone is another than at the start."""
    file = workdir / CHECKSUMS

    def measure(state: TrainState, position: int) -> dict[str, float]:
        sums = checksums_of(_backbone(state))
        if jax.process_index() > 0:
            return {}
        if position == 0:
            file.write_text(json.dumps(sums, indent=1) + "\n")
            return {}
        if not file.exists():
            log.warning("%s is gone: whether the backbone changed is not known", file)
            return {}
        first = json.loads(file.read_text())
        changed = sorted(name for name in first | sums if first.get(name) != sums.get(name))
        if changed:
            raise CheckpointError(
                f"The backbone changed in a linear probe: {', '.join(changed[:3])} "
                f"({len(changed)} of {len(sums)} arrays)"
            )
        log.info("Backbone unchanged: the checksums of its %d arrays are the first ones", len(sums))
        return {}

    return measure


def _backbone(state: TrainState) -> dict[str, jax.Array]:
    return {name: leaf for name, leaf in named(state).items() if name.startswith(BACKBONE)}


def with_features(x: Experiment, state: TrainState, workdir: pathlib.Path) -> Experiment:
    """The experiment on features in place of images, where the config wants that.

    They are kept in `workdir/features`, under a name that stands for the backbone and the images:
    a run that resumes reads them, a run of another backbone makes its own.

    Raises:
      NotFiniteError: there is a NaN or an infinity among the features.
    """
    if not on_features(x.config):
        return x
    d = x.config.data
    what = [
        checksums_of(_backbone(state)), d.image_size, d.eval_crop_share, x.mean, x.std,
        [(part.name, len(part)) for part in (*x.data, x.held_out) if part], x.config.seed,
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = workdir / "features" / key

    encode = make_encode(x, "backbone")

    def part(name: str, source: Source) -> ArraySource:
        make = lambda: extract(partial(encode, state), eval_batches(x, source))  # noqa: E731
        return _features(folder / f"{name}.npz", source, make)

    data = x.data._replace(train=part("train", x.data.train), test=part("test", x.data.test))
    return x._replace(data=data, held_out=x.held_out and part("held_out", x.held_out))


def _features(file: pathlib.Path, source: Source, make: Callable[[], tuple]) -> ArraySource:
    """Features (N, F) and labels of a source, from the file or made and kept there."""
    if not file.exists():
        features, labels = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{jax.process_index()}.part")
        with part.open("wb") as out:
            np.savez(out, features=features, labels=labels)
        part.replace(file)
        log.info("Features of %d images kept in %s", len(labels), file)
    with np.load(file) as arrays:
        return ArraySource(source.name, arrays["features"], arrays["labels"], source.class_names)
