"""The steps between two rows of metrics."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


class Interval:
    """The steps since the last row: their metrics, still on the device, and their time."""

    def __init__(self, batches: Any, judge: Callable[[int, int], None]):
        """Takes the batches, and what sees each step's position and steps skipped in a row."""
        self._batches, self._judge = batches, judge
        self._pending: collections.deque = collections.deque()
        self._restart()

    def _restart(self) -> None:
        self._rows: list[dict[str, jax.Array]] = []
        self._begin, self._paused = time.monotonic(), 0.0
        self._waited = self._batches.wait_seconds

    def busy(self) -> bool:
        """Whether the device still computes the newest step."""
        return bool(self._pending) and not self._pending[-1][1]["loss"].is_ready()

    def add(self, metrics: dict[str, jax.Array], position: int) -> None:
        """Takes a step's metrics; waits for the step two before, so the host stays near.

        Args:
          metrics: of the step, on the device.
          position: batches consumed.

        Raises:
          TrainingDivergedError: that step was one of too many in a row that were not finite.
        """
        self._rows.append(metrics)
        self._pending.append((position, metrics))
        if len(self._pending) == 3:
            at, old = self._pending.popleft()
            self._judge(at, int(old["skipped_in_a_row"]))

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time inside out of the interval."""
        begin = time.monotonic()
        yield
        self._paused += time.monotonic() - begin

    def row(self, batch_size: int) -> dict[str, float]:
        """Means over the interval's finite steps, its rate and share of waiting; starts anew."""
        values = jax.device_get(self._rows)
        seconds = time.monotonic() - self._begin - self._paused
        row = {}
        for name in values[0]:
            column = np.array([v[name] for v in values], np.float64)
            finite = column[np.isfinite(column)]
            row[name] = float(finite.mean()) if finite.size else float("nan")
            if name == "grad_norm_first":  # a spike may be a single step
                row[f"{name}_max"] = float(finite.max()) if finite.size else float("nan")
        for name in ("skipped", "skipped_in_a_row"):
            row[name] = int(values[-1][name])
        row["images_per_second"] = batch_size * len(values) / seconds
        row["input_wait"] = (self._batches.wait_seconds - self._waited) / seconds
        self._restart()
        return row
