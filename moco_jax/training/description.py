"""What the log says of an experiment before it starts."""

import logging

import jax
from clu import parameter_overview

from moco_jax.data import augment
from moco_jax.data.source import log_data
from moco_jax.ops.course import Course
from moco_jax.ops.ema import make_ema_schedule
from moco_jax.optim import describe_optimizer, make_schedule, one_head
from moco_jax.protocols.supervised import Supervised
from moco_jax.training.experiment import Experiment

log = logging.getLogger(__name__)


def describe(x: Experiment) -> None:
    """Logs devices, data, recipe, parameters and optimizer masks."""
    c, devices = x.config, x.mesh.devices.ravel()
    log.info("Backend %s: %d x %s", devices[0].platform, len(devices), devices[0].device_kind)
    train = x.data.train
    if not x.own:  # annotated images are described where they are opened
        log_data(x.data)
        if c.evals.source:
            log_data(x.evaluated)
    name = c.method.name if c.protocol == "pretraining" else c.protocol
    log.info(
        "Recipe: %s (%s), %s, %s, batch %d over all devices, learning rate %g (%g x %d / 256), "
        "seed %d",
        name, x.task.recipe, c.model.name, c.optim.name, c.data.batch_size,
        c.optim.base_lr * c.data.batch_size / 256, c.optim.base_lr, c.data.batch_size, c.seed,
    )  # fmt: skip
    for number, view in enumerate(x.task.views, 1):
        skipped = augment.skipped_operations(view, train.channels)
        if skipped:
            log.info(
                "View %d: no %s: no meaning on images of %d channel(s)",
                number, ", ".join(skipped), train.channels,
            )  # fmt: skip
    params, _ = jax.eval_shape(x.task.init, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    log.info("Parameters of the online network:\n%s", table)
    if isinstance(x.task, Supervised) and x.task.heads:
        log.info("Trained: a classifier with %d heads, each like this one:", len(x.task.heads))
        params = one_head(params)
    for line in describe_optimizer(c.optim, params, x.task.layers):
        log.info("%s", line)
    log.info(
        "%d steps: %g epochs of %.1f steps; chance loss %.3f",
        x.steps, c.epochs, x.steps_per_epoch, x.task.chance_loss,
    )  # fmt: skip
    _describe_extension(x)


def _describe_extension(x: Experiment) -> None:
    """Says what happens to rate and EMA at each step where the run was to end before."""
    c, ends = x.config, [max(1, round(e * x.steps_per_epoch)) for e in x.config.extended_from]
    for number, end in enumerate(ends):
        both = []
        for course in (
            Course(end, tuple(ends[:number]), c.extension),
            Course(x.steps, tuple(ends), c.extension),
        ):
            rate = make_schedule(c.optim, c.data.batch_size, course, x.steps_per_epoch)
            both.append((rate, make_ema_schedule(c.method.ema_schedule, c.method.ema, course)))
        before, after = (
            tuple(float(f(step)) for f in schedules)
            for schedules, step in zip(both, (end - 1, end))
        )
        log.info(
            "Extended at step %d (%g epochs), extension %r: learning rate %.3g, then %.3g%s",
            end, c.extended_from[number], c.extension, before[0], after[0],
            f"; EMA {before[1]:.6g}, then {after[1]:.6g}" if c.protocol == "pretraining" else "",
        )  # fmt: skip
