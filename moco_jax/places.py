"""Where files go: folders of file systems, so far."""

import os
import pathlib
import re

from moco_jax.errors import InputError

# pathlib makes one slash of two; one letter is a drive of Windows.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local(option: str, path: str | os.PathLike) -> pathlib.Path:
    """The absolute path of a file or folder.

    Raises:
      InputError: it is an address (gs://..., s3://...), which would become a folder `gs:` here.
    """
    if found := _ADDRESS.match(os.fspath(path)):
        raise InputError(
            f"{option}={os.fspath(path)!r}: {found[1]}:// is not supported; expected a folder of a "
            f"file system, e.g. /mnt/runs/first, where a bucket or a share may be mounted"
        )
    return pathlib.Path(path).absolute()
