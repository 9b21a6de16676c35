"""Hearing of an asynchronous save that fails, when it fails."""

import logging


class Failures(logging.Filter):
    """Hears of a save that fails in the background when it does, and keeps Orbax's pages of it out.

    Orbax itself tells at the next save or at the end; of several processes only after minutes,
    in which the others wait for the one that failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: BaseException | None = None
        logging.getLogger("absl").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be shown."""
        orbax = "orbax" in record.pathname
        if orbax and record.exc_info and record.exc_info[1]:
            if record.threadName == "async_save":
                self.last = record.exc_info[1]
            return False
        return not (orbax and record.levelno >= logging.ERROR)

    def close(self) -> None:
        """Hears nothing more."""
        logging.getLogger("absl").removeFilter(self)
