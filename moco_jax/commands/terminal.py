"""What the commands share: their lines on the terminal, their exit codes."""

import importlib.metadata
import logging
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Sequence

from moco_jax import __version__, places
from moco_jax.errors import BackendError, InputError, StorageError, WrongInputError, exit_code


def set_up_logging() -> None:
    """Our lines on stderr as they are; other libraries' only from WARNING on."""
    package = logging.getLogger("moco_jax")
    package.addHandler(logging.StreamHandler())
    package.setLevel(logging.INFO)
    package.propagate = False


def version() -> str:
    """What --version prints: the package's, and those that its numbers depend on."""
    jax = importlib.metadata.version("jax")
    return f"moco_jax {__version__} (jax {jax}, Python {platform.python_version()})"


def guarded(main: Callable[[], int | None]) -> int:
    """The exit code of a command: its own, or after saying what is wrong that of the error.

    An error that is nobody's input keeps its traceback, and Python ends with code 1.
    """
    try:
        return main() or 0
    except (WrongInputError, BackendError, StorageError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return exit_code(error)


def check_writable(path: str | os.PathLike) -> None:
    """Refuses a file that cannot be written, before anything is computed.

    Raises:
      InputError: it is a folder, or its folder cannot be written.
    """
    path = places.local("out", path)
    folder = next((p for p in path.absolute().parents if p.exists()), pathlib.Path("/"))
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: {folder} is no folder that may be written to")


def numbers(kind: type) -> Callable[[str], tuple]:
    """A flag's type: numbers with commas between, '20,200'."""

    def parse(text: str) -> Sequence:
        return tuple(kind(part) for part in text.split(","))

    parse.__name__ = f"{kind.__name__}s"  # argparse names it in its errors
    return parse
