"""Errors with a name of their own; `main` prints their message without a traceback. Exit codes."""

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2  # the same command would fail again: config, data or workdir
# sysexits' EX_TEMPFAIL: stopped by a signal after saving, or another process is gone; the same
# command resumes.
EXIT_RESTART = 75


class WrongInputError(Exception):
    """What the user gave cannot be used, and the same command would fail again: exit code 2.

    Raised as one of its kinds, where input is checked, and nowhere else: a library's ValueError
    may be the machine's trouble.
    """


class InputError(WrongInputError, ValueError):
    """A value, or what a file holds, is not what is expected."""


class BadImage(InputError):
    """Bytes that are no whole image."""


class MissingError(WrongInputError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class CheckpointError(WrongInputError, RuntimeError):
    """A checkpoint that is there cannot be used."""


class TrainingDivergedError(RuntimeError):
    """Loss or gradient was not finite in too many steps in a row."""


class StorageError(OSError):
    """Reading or writing failed, and went on failing: the machine's trouble, exit code 75."""


class WorkerError(RuntimeError):
    """A worker process that reads images ended, or failed in a way that it could not send."""


class NotFiniteError(InputError):
    """Features with a NaN or an infinity.

    Attributes:
      index: the images of the source that have them, as far as they were looked at.
    """

    def __init__(self, index: Sequence[int]):
        self.index = list(map(int, index))
        some = ", ".join(map(str, self.index[:5])) + (" ..." if len(self.index) > 5 else "")
        super().__init__(f"features with NaN or infinity, of image {some}")
