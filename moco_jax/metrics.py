"""Where metrics go: metrics.jsonl, TensorBoard and one line on the terminal."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

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
    "knn_top1": "kNN {:.1%}",
    "knn_top1_raw": "kNN of raw pixels {:.1%}",
    "test_top1": "test top-1 {:.1%}",
}


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of `workdir/metrics.jsonl`; a last line cut short by a kill is left out."""
    rows = []
    for line in (pathlib.Path(workdir) / FILE).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _rewind(path: pathlib.Path, position: int) -> None:
    """Moves rows past `position`, which will be written again, to a file of their own."""
    if not path.exists():
        return
    rows = read(path.parent)
    keep = [row for row in rows if row["step"] <= position and position > 0]
    if rows[len(keep) :]:
        with path.with_name("metrics.superseded.jsonl").open("a") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows[len(keep) :])
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in keep))
    part.replace(path)


class Writer:
    """Appends rows to metrics.jsonl and TensorBoard; not-finite numbers become null."""

    def __init__(self, workdir: pathlib.Path, position: int, tensorboard: bool):
        path = pathlib.Path(workdir) / FILE
        _rewind(path, position)
        self._file = path.open("a")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # 3 s to import

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=position + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Writes one row; it has a key 'step'."""
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        for name, value in clean.items() if self._board else ():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        if self._board:
            self._board.close()


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
        step, parts = row["step"], [f"step {row['step']}/{self._total}"]
        parts += [t.format(row[k]) for k, t in (_SHOWN | _MEASURED).items() if k in row]
        now = time.monotonic()
        if self._start:
            since, first = self._start
            left = (now - since) / max(step - first, 1) * (self._total - step)
            parts.append(f"{duration(left)} left")
        elif "loss" in row:  # compilation is behind
            self._start = now, step
        text = "  ".join(parts)
        stays = not self._live or any(k in row for k in _MEASURED)
        if self._live:
            text = "\r\x1b[K" + (text if stays else text[: shutil.get_terminal_size().columns - 1])
        print(text, end="\n" if stays else "", file=sys.stderr, flush=True)


@contextlib.contextmanager
def reporter(
    workdir: pathlib.Path, position: int, total: int, tensorboard: bool, writing: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Within the context, gives the function that a row of metrics goes to.

    Args:
      workdir: of the run.
      position: the step it starts or resumes at.
      total: steps.
      tensorboard: whether to write for TensorBoard as well.
      writing: False in all processes but one; rows then go nowhere.
    """
    if not writing:
        yield lambda row: None
        return
    progress = Progress(total)

    def report(row: dict[str, Any]) -> None:
        writer.write(row)
        progress.show(row)

    with contextlib.closing(Writer(workdir, position, tensorboard)) as writer:
        yield report
