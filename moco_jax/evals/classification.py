"""Accuracy of what was trained with labels, on all test images; at the end into results.json."""

import logging
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax import results
from moco_jax.data.source import Source
from moco_jax.evals.accuracy import Accuracy, accuracy, report
from moco_jax.evals.evaluation import Context, Evaluation, Measure
from moco_jax.protocols.heads import describe_head, name_head

log = logging.getLogger(__name__)

TITLES = {
    "linear": "Linear probe", "finetune": "Fine-tuning", "detection": "Detection",
    "segmentation": "Semantic segmentation",
}  # fmt: skip


def _make(context: Context) -> Measure | None:
    if context.config.protocol != "supervised":
        return None
    config, data, held_out = context.config, context.data, context.held_out

    def on(state: Any, source: Source, limit: int = 0) -> Accuracy:
        return accuracy(partial(context.predict, state), context.batches(source, limit))

    named: set[int] = set()

    def measure(state: Any, position: int) -> dict[str, float]:
        if position == 0:  # what is wrong with the evaluation shows before the training
            on(state, data.test, config.data.eval_batch_size)
            return {}
        test, chooser = on(state, data.test), on(state, held_out) if held_out else None
        alive = np.asarray(state.method_state.get("alive", True)).reshape(-1)
        row = report(test, chooser, alive if chooser else None)
        _name_frozen(config, alive, named)
        if position == context.steps and jax.process_index() == 0:
            _add_result(context, row, test, chooser, alive)
        return row

    return measure


def _name_frozen(config: ConfigDict, alive: np.ndarray, named: set[int]) -> None:
    """Says, once for each, which heads are frozen."""
    for head in set(np.flatnonzero(~alive).tolist()) - named:
        text = "Frozen: %s, whose loss or gradient was not finite; it is left out of the choice"
        log.warning(text, name_head(config, head))
        named.add(head)


def _add_result(
    context: Context, row: dict, test: Accuracy, held_out: Accuracy | None, alive: np.ndarray
) -> None:
    c, task = context.config, context.task
    kind = "linear" if task.heads else "finetune"
    protocol = f"{task.recipe}; {c.optim.name}, {c.optim.schedule}, {c.epochs:g} epochs"
    settings = {
        "init": c.init or "random", "batch_size": c.data.batch_size,
        "label_share": c.data.label_share, "base_lr": c.optim.base_lr,
    }  # fmt: skip
    if held_out:
        heads = [describe_head(c, i) for i in range(len(task.heads))]
        tops = [{"held_out_top1": float(top1)} for top1 in held_out.top1]
        for head in np.flatnonzero(~alive):
            tops[head] = {"frozen": True}
        settings["held_out"] = len(context.held_out)
        settings["sweep"] = [head | top for head, top in zip(heads, tops, strict=True)]
        settings["chosen"] = heads[row["head"]]
    metrics = {name.removeprefix("test_"): v for name, v in row.items() if name != "head"}
    results.add(context.workdir, kind, protocol=protocol, settings=settings, seed=c.seed,
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


def _every(config: ConfigDict) -> float:
    return config.supervised.every_epochs


ACCURACY = Evaluation(_make, _every)
