"""The one loop, for every method: train, watch, save, resume."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from moco_jax import files, logfile, results
from moco_jax import metrics as metric_files
from moco_jax import report as reports
from moco_jax.bucket import BucketPath, Place
from moco_jax.checkpoint import Checkpoints, alone
from moco_jax.checkpoint.bucketed import open_checkpoints
from moco_jax.cluster import lock
from moco_jax.cluster.lifeline import Line, end_process
from moco_jax.cluster.stop import stop_requested
from moco_jax.config import ConfigDict
from moco_jax.errors import EXIT_RESTART, StorageError, TrainingDivergedError
from moco_jax.evals import make_watches
from moco_jax.evals.classification import TITLES, describe_result
from moco_jax.evals.evaluation import Context
from moco_jax.identity import refuse_changes
from moco_jax.report.origin import Compiled
from moco_jax.signs import Row
from moco_jax.training import device_memory, health, own_run
from moco_jax.training.compilation import compile_step
from moco_jax.training.context import make_context
from moco_jax.training.description import describe
from moco_jax.training.experiment import (
    Experiment,
    abstract_state,
    build,
    recorded,
    train_batches,
)
from moco_jax.training.features_once import with_features
from moco_jax.training.first_state import first_state
from moco_jax.training.interval import Interval
from moco_jax.training.profiling import profiled
from moco_jax.training.step import TrainState

log = logging.getLogger(__name__)


def run(
    config: ConfigDict,
    workdir: str | os.PathLike | BucketPath,
    line: Line | None = None,
    build: Callable[[ConfigDict], Experiment] = build,
) -> int:
    """Trains as `config` says, or goes on with what `workdir` holds.

    Args:
      config: of the run.
      workdir: of the run; the same for all processes.
      line: to the other processes, if there are some.
      build: makes the experiment; protocols of an upper floor have their own.

    Returns:
      The process's exit code: 0 when the run is complete, EXIT_RESTART when a signal stopped
      it, after saving.

    Raises:
      InputError: the config or the data is wrong.
      MissingError: `config.init` is not there.
      CheckpointError: what is saved cannot be continued under this config.
      StorageError: a file could not be read or written, although it was tried again.
      TrainingDivergedError: too many steps in a row were not finite, or none was.
    """
    path = files.prepare_workdir(workdir)
    own_run.check_init(config, path)
    with contextlib.ExitStack() as stack:
        if line is None or line.index == 0:
            stack.enter_context(lock.held(path, end_process))
            stack.enter_context(logfile.logged(path))
        return _run(build(config), path, line)


def _run(x: Experiment, path: Place, line: Line | None) -> int:
    config = x.config
    describe(x)
    device_memory.check_state(x)
    exchange = line.exchange if line else alone
    with open_checkpoints(path, config.checkpoint, exchange) as checkpoints:
        allow = config.checkpoint.allow_changes
        refuse_changes(checkpoints.newest_config(), recorded(x), allow)
        state = checkpoints.restore(abstract_state(x))
        if state is None:
            state, source = first_state(x, path), config.init
        else:
            source = path / "checkpoints"
        start = int(state.position)
        if start:
            log.info("Resuming at step %d of %d from %s", start, x.steps, source)
        writing = jax.process_index() == 0
        if writing:
            files.write(path / "config.json", config.to_json_best_effort(indent=2) + "\n")
        context = make_context(x, path)
        with metric_files.reporter(path, start, x.steps, config.log, writing) as report:
            try:
                on = with_features(x, state, path)
                # One context, so that its encoder is compiled once, for the report too.
                there = context if on is x else make_context(on, path)
                page = partial(reports.Ongoing, context)  # of the images, also on features
                state, finished = _loop(on, there, page, state, start, checkpoints, report, line)
                if finished:
                    skipped = tuple(np.asarray(state.skipped).tolist())
                    most = config.log.max_nonfinite
                    health.check_end(checkpoints, most, int(state.step), skipped)
            except TrainingDivergedError as error:
                reports.conclude(context, "diverged", message=str(error))
                raise
    if not finished:
        reports.conclude(context, "stopped")
        log.warning("Stopped; the same command resumes.")
        return EXIT_RESTART
    encode = partial(context.encode(config.knn.features), state) if x.task.encode else None
    reports.conclude(context, "complete", encode)
    if not writing:
        return 0
    log.info("%s", summary(path))
    return 0


def _loop(
    x: Experiment,
    context: Context,
    open_page: Callable[[Compiled], reports.Ongoing],
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    report: Callable[[dict[str, Any]], None],
    line: Line | None,
) -> tuple[TrainState, bool]:
    """Steps `start` + 1 to the last; the state, and False when a signal ended them early."""
    c, own = x.config, x.own and x.own.evaluation
    watches = make_watches(context, x.steps_per_epoch, own)
    monitor = _monitor(x, context.workdir, start)
    if start >= x.steps:
        rows = metric_files.read(context.workdir)
        if not line and not any(row["step"] >= x.steps for row in rows):  # it could not be written
            row = {"step": start, "epoch": start / x.steps_per_epoch}
            for watch in watches:
                row |= watch.measure(state, start)
            report(row | monitor(row))
        return state, True
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(train_batches(x, start))
        batch = batches.get()
        step, compiled = compile_step(x, state, batch)
        if start == 0:
            row = {"step": 0, "epoch": 0.0}
            for watch in watches:
                row |= watch.measure(state, 0)
            report(row | monitor(row))
        step = stack.enter_context(profiled(step, c.profile, context.workdir, start))
        page = open_page(compiled)
        judge = partial(health.judge, checkpoints, c.log.max_nonfinite)
        interval = Interval(batches, judge)
        stop = stack.enter_context(stop_requested(line))  # from here on there is what to save
        for position in range(start + 1, x.steps + 1):
            state, metrics = step(state, batch)
            interval.add(metrics, position)
            last, stopping = position == x.steps, stop(position)
            if not (last or stopping):
                batch = batches.get(interval.busy, stop.gives_up)
                stopping = _no_batch(batch, position, line)
            row = {}
            if last or stopping or position % c.log.every_steps == 0:
                row = interval.row(c.data.batch_size)
                row["loss_chance"] = x.task.chance_loss
            due = [watch for watch in watches if last or watch.is_due(position)]
            with _saving_first(checkpoints, position, state, x, line):
                if due:
                    jax.block_until_ready(state)
                    with interval.pause():
                        for watch in due:
                            row |= watch.measure(state, position)
                if row:
                    row = {"step": position, "epoch": position / x.steps_per_epoch} | row
                    report(row | monitor(row))
            if due and not (last or stopping):
                with interval.pause():
                    page.write()
            every, ends = c.checkpoint.every_steps, last or stopping
            if ends or (every and position % every == 0) or checkpoints.failed():
                with interval.pause():
                    # The head that a probe has chosen goes with the weights.
                    chosen = {"head": row["head"]} if "head" in row else {}
                    checkpoints.save(position, state, recorded(x, **chosen), wait=ends)
            if ends:
                break
    return state, last


def _monitor(x: Experiment, workdir: Place, start: int) -> Callable[[Row], Row]:
    """What looks at the rows, those before `start` included; only where they are written."""
    if jax.process_index():
        return lambda row: {}
    there = start and (workdir / metric_files.FILE).exists()
    return health.Monitor(x.config, x.task.caution, metric_files.read(workdir) if there else ())


def _no_batch(batch: Any, position: int, line: Line | None) -> bool:
    """Whether a stop came in the wait for a batch.

    Raises:
      StorageError: of several processes, which cannot stop here: others may have begun a step.
    """
    if batch is None and line:
        raise StorageError(
            f"All were asked to stop, and the batch after step {position} did not come: a read "
            f"hangs. The same command resumes from the last checkpoint."
        )
    return batch is None


@contextlib.contextmanager
def _saving_first(
    checkpoints: Checkpoints, position: int, state: TrainState, x: Experiment, line: Line | None
) -> Iterator[None]:
    """Saves the state before metrics or results that cannot be written end the run.

    Several processes go back to the checkpoint before: where one fails, all cannot save.
    """
    try:
        yield
    except StorageError:
        if not line:
            checkpoints.save(position, state, recorded(x), wait=True)
        raise


def summary(workdir: Place) -> str:
    """What came out of a complete run, from its metrics."""
    rows = metric_files.read(workdir)
    knn = [row for row in rows if row.get("knn_top1") is not None]
    lines = []
    if knn:
        text = f"kNN top-1 {knn[-1]['knn_top1']:.1%}"
        if knn[0]["step"] == 0:
            text += (
                f" (untrained encoder {knn[0]['knn_top1']:.1%}, "
                f"raw pixels {knn[0]['knn_top1_raw']:.1%})"
            )
        lines.append(text)
    lines += health.recount(rows)
    lines += [describe_result(r) for r in results.read(workdir) if r["evaluation"] in TITLES]
    names = f"{reports.FILE} {metric_files.FILE} {logfile.FILE} tensorboard checkpoints config.json"
    there = (name for name in names.split() if (workdir / name).exists())
    lines.append(f"Results in {workdir}: {', '.join(there)}")
    return "\n".join(lines)
