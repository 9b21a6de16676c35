"""Hearing of an asynchronous save that fails, when it fails."""

import gc
import logging
import sys
from typing import Any

from moco_jax.files import is_trouble

# Orbax's own lines, and what its abandoned coroutines leave to these two.
_LOGGERS = ("absl", "asyncio", "concurrent.futures")


class Failures(logging.Filter):
    """Hears of a save that fails in the background when it does, and keeps Orbax's pages of it out.

    Orbax itself tells at the next save or at the end; of several processes only after minutes,
    in which the others wait for the one that failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: BaseException | None = None
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be shown."""
        error = record.exc_info[1] if record.exc_info else None
        if record.name != "absl":
            return error is None or not (is_trouble(error) or "loop is closed" in str(error))
        if "orbax" not in record.pathname:
            return True
        if error is not None and record.threadName == "async_save":
            self.last = error
        return error is None and record.levelno < logging.ERROR

    def close(self) -> None:
        """Hears nothing more."""
        if self.last:
            gc.collect()  # what a failed save has left is told when it is collected: still in here
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)
        if sys.unraisablehook == self._unraisable:
            sys.unraisablehook = self._hook

    def _unraisable(self, what: Any) -> None:
        """TensorStore answers event loops that Orbax has closed."""
        if "loop is closed" not in str(what.exc_value):
            self._hook(what)
