"""Errors with a name of their own, and exit codes; `main` prints their message without a traceback.

| code | meaning | the same command again |
|---|---|---|
| 0 | done | has nothing to do |
| 1 | anything else: an error of the program or the machine, with its traceback | may succeed |
| 2 | wrong input: flags, config, data, checkpoint or workdir | fails again |
| 3 | the training cannot go on: it diverged, or no step could be used | fails again |
| 75 | stopped by a signal, a process is gone or missing, files cannot be written | resumes |
"""

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_DIVERGED = 3
EXIT_RESTART = 75  # sysexits' EX_TEMPFAIL


class WrongInputError(Exception):
    """What the user gave cannot be used, and the same command would fail again: exit code 2.

    Raised as one of its kinds, where input is checked, and nowhere else: a library's ValueError
    may be the machine's trouble.
    """


class InputError(WrongInputError, ValueError):
    """A value, or what a file holds, is not what is expected."""


class BadImage(InputError):
    """Bytes that are no whole image."""


class LateImage(BadImage):
    """An image that did not come in time, which says nothing of its bytes."""


class MissingError(WrongInputError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class DoesNotFitError(InputError):
    """The compiler finds no room for the step on a device."""


class CheckpointError(WrongInputError, RuntimeError):
    """A checkpoint that is there cannot be used."""


class TrainingDivergedError(RuntimeError):
    """Loss or gradient was not finite in too many steps: exit code 3."""


class BackendError(RuntimeError):
    """The accelerator that was asked for is not there; on another machine, or later, it may be."""


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


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, WrongInputError):
        return EXIT_WRONG_INPUT
    if isinstance(error, StorageError):
        return EXIT_RESTART
    return EXIT_DIVERGED if isinstance(error, TrainingDivergedError) else EXIT_FAILED
