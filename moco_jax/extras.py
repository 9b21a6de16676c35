"""Libraries that only a part of the package needs, and that an extra installs."""

import contextlib
import importlib.metadata
import shlex
from collections.abc import Iterator

from moco_jax.errors import InputError


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Imports within the context; one that fails says which extra is missing.

    Args:
      name: of the extra in setup.py.
      what: needs it, e.g. "data.source='tfds:...'".

    Raises:
      InputError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{what} needs the library {error.name!r}: {installation(name)}"
        ) from error


def installation(name: str) -> str:
    """The command that installs an extra: its libraries by name, for this package is on no index.

    Args:
      name: of the extra in setup.py.
    """
    try:
        listed = importlib.metadata.requires("moco_jax") or ()
    except importlib.metadata.PackageNotFoundError:
        listed = ()
    parts = [line.partition(";") for line in listed]
    found = [what.strip() for what, _, when in parts if f'extra == "{name}"' in when]
    if not found:
        return f"pip install '.[{name}]' in the repository"
    return f"pip install {shlex.join(found)}"
