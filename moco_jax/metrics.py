"""Where metrics go: metrics.jsonl, TensorBoard, W&B and one line on the terminal."""

import contextlib
import itertools
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moco_jax import files
from moco_jax.bucket import BucketPath, Place, place
from moco_jax.config import ConfigDict
from moco_jax.extras import extra
from moco_jax.tensorboard import Board
from moco_jax.wandb_sink import Run

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
# What the terminal shows of a row, in this order.
_SHOWN = {
    "epoch": "epoch {:.2f}",
    "loss": "loss {:.3f}",
    "loss_chance": "(chance {:.3f})",
    "contrast_top1": "top-1 {:.1%}",
    "assignment_top1": "top-1 {:.1%}",
    "train_top1": "train top-1 {:.1%}",
    "feature_std": "std {:.2f}",
    "learning_rate": "lr {:.3g}",
    "images_per_second": "{:.0f} images/s",
    "input_wait": "input wait {:.0%}",
}
# Evaluations: a line that has one of them stays.
_MEASURED = {
    "AP50": "AP50 {:.1%}",
    "AP": "AP {:.1%}",
    "knn_top1": "kNN {:.1%}",
    "knn_top1_raw": "kNN of raw pixels {:.1%}",
    "test_top1": "test top-1 {:.1%}",
    "mIoU": "mIoU {:.1%}",
}


def read(workdir: str | os.PathLike | BucketPath) -> list[dict[str, Any]]:
    """The rows of `workdir/metrics.jsonl`; what is damaged is left out.

    A last line cut short by a kill is nothing special; other damage is said.
    """
    path = place("workdir", workdir) / FILE
    rows, damaged = _parse(path)
    if damaged:
        log.warning("%s: %d damaged lines are left out", path, damaged)
    return rows


def _parse(path: Place) -> tuple[list[dict[str, Any]], int]:
    """Rows, and the number of complete lines that are none."""
    lines = files.read(path).split(b"\n")
    rows = [_row(line) for line in lines]
    damaged = sum(row is None and bool(line) for row, line in zip(rows[:-1], lines))
    return [row for row in rows if row is not None], damaged


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _rewind(path: Place, position: int) -> None:
    """Moves rows past `position`, which will be written again, to a file of their own.

    A damaged file is kept beside the one with what can be read of it.
    """
    if not files.retrying(f"reading {path}", path.exists, files.is_trouble):
        return
    rows, damaged = files.retrying(f"reading {path}", lambda: _parse(path))
    if damaged:
        files.set_aside(path)
    keep = [row for row in rows if row["step"] <= position and position > 0]
    if gone := [row for row in rows if row not in keep]:
        superseded = path.with_name("metrics.superseded.jsonl")
        files.append(superseded, "".join(json.dumps(row) + "\n" for row in gone))
    files.write(path, "".join(json.dumps(row) + "\n" for row in keep))


class Writer:
    """Appends rows to metrics.jsonl, TensorBoard and W&B; not-finite numbers become null."""

    def __init__(self, workdir: Place, position: int, tensorboard: bool, wandb: str = ""):
        """Begins after `position`; `wandb` is the project there.

        Raises:
          InputError: the library for TensorBoard's files, or W&B's, is not installed.
          StorageError: metrics.jsonl cannot be written. What fails for the others is only said.
        """
        self._path = place("workdir", workdir) / FILE
        _rewind(self._path, position)
        self._board: Board | None = None
        if tensorboard:
            with extra("tensorboard", "log.tensorboard"), self._without_board():
                self._board = Board(self._path.parent / "tensorboard", position)
        self._run = Run(wandb, self._path.parent) if wandb else None

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row; it has a key 'step', and gets 'time', seconds since 1970.

        Raises:
          StorageError: metrics.jsonl cannot be written.
        """
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        files.append(self._path, json.dumps(clean | {"time": round(time.time(), 2)}) + "\n")
        scalars = {k: v for k, v in clean.items() if isinstance(v, int | float)}
        if self._run:
            self._run.write(dict(scalars))
        step = scalars.pop("step")
        if self._board:
            with self._without_board():
                self._board.write(scalars, step)

    def close(self) -> None:
        """Ends TensorBoard's file and the run at W&B."""
        if self._run:
            self._run.close()
        if self._board:
            with self._without_board():
                self._board.close()

    @contextlib.contextmanager
    def _without_board(self) -> Iterator[None]:
        """Goes on without TensorBoard when it fails, and says so, once."""
        try:
            yield
        except OSError as error:
            self._board = None
            log.warning("Nothing more for TensorBoard: %s; %s has all", error, FILE)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Progress:
    """The progress of a run on the terminal: one line that renews itself, or plain lines."""

    def __init__(self, total: int):
        self._total = total
        self._live = sys.stderr.isatty()
        self._start: tuple[float, int] | None = None

    def show(self, row: dict[str, Any]) -> None:
        """Shows a row of metrics."""
        step, shown = row["step"], _SHOWN | _MEASURED
        parts = [text.format(row[k]) for k, text in shown.items() if k in row]
        parts = [f"step {step}/{self._total}", *parts]
        now = time.monotonic()
        if self._start:
            since, first = self._start
            left = (now - since) / max(step - first, 1) * (self._total - step)
            parts = [f"{duration(left)} left", *parts]
        elif "loss" in row:  # compilation is behind
            self._start = now, step
        stays = not self._live or any(k in row for k in _MEASURED)
        if self._live:
            columns = shutil.get_terminal_size().columns
            text = "\r\x1b[K" + ("  ".join(parts) if stays else fitting(parts, columns - 1))
        else:
            text = "  ".join(parts)
        print(text, end="\n" if stays else "", file=sys.stderr, flush=True)


def fitting(parts: Sequence[str], columns: int) -> str:
    """As many parts, from the first on, as a line of so many columns has room for."""
    lengths = itertools.accumulate(len(part) + 2 for part in parts)
    count = sum(length - 2 <= columns for length in lengths)
    return "  ".join(parts[: max(count, 1)])[:columns]


@contextlib.contextmanager
def reporter(
    workdir: Place, position: int, total: int, to: ConfigDict, writing: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Within the context, gives the function that a row of metrics goes to.

    Args:
      workdir: of the run.
      position: the step it starts or resumes at.
      total: steps.
      to: `config.log`: whether to write for TensorBoard and W&B as well.
      writing: False in all processes but one; rows then go nowhere.
    """
    if not writing:
        yield lambda row: None
        return
    progress = Progress(total)

    def report(row: dict[str, Any]) -> None:
        writer.write(row)
        progress.show(row)

    with contextlib.closing(Writer(workdir, position, to.tensorboard, to.wandb)) as writer:
        yield report
