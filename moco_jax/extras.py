"""Libraries that only a part of the package needs, and that an extra installs."""

import contextlib
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
            f"{what} needs the library {error.name!r}: pip install 'moco_jax[{name}]'"
        ) from error
