"""Where files go: folders of file systems, and buckets by their address, gs://... or s3://...

The one place that knows which schemes there are. fsspec does the access, with gcsfs and s3fs: the
same calls for both, the usual credentials and variables of either, writes that appear whole or not
at all, and conditional ones, which the lock of a workdir needs. (etils.epath stands on it too, but
its listings are remembered, so that the files of other processes are not seen.)
"""

import contextlib
import errno
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from moco_jax.errors import InputError
from moco_jax.extras import extra

# pathlib makes one slash of two; one letter is a drive of Windows.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_CONNECT, _ANSWER = 10, 30  # seconds of waiting
# Whose errors come from a server or the way to it, where they are no OSError.
_CLIENTS = {"aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "urllib3"}
_NO_ENTRY = ("NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError")


class BucketError(OSError):
    """A bucket's server does not answer, or says that it cannot now: it may pass."""


def _gs() -> Any:
    with extra("gcs", "gs://"):
        from aiohttp import ClientTimeout
        from gcsfs import core  # fsspec's own choice of a class asks another server as well
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # a traceback for each attempt
    return core.GCSFileSystem(
        token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None,
        requests_timeout=ClientTimeout(sock_connect=_CONNECT, sock_read=_ANSWER),
        use_listings_cache=False,
    )


def _s3() -> Any:
    with extra("s3", "s3://"):
        from s3fs import S3FileSystem
    retries = {"max_attempts": 1}  # s3fs has its own
    return S3FileSystem(
        config_kwargs={
            "connect_timeout": _CONNECT, "read_timeout": _ANSWER, "retries": retries,
        },
        use_listings_cache=False,
    )  # fmt: skip


SCHEMES: dict[str, Callable[[], Any]] = {"gs": _gs, "s3": _s3}


def scheme(path: str | os.PathLike) -> str:
    """The scheme of an address, 'gs' of gs://bucket/run; '' of a path."""
    found = _ADDRESS.match(os.fspath(path))
    return found[1] if found else ""


def local(option: str, path: str | os.PathLike) -> pathlib.Path:
    """The absolute path of a file or folder.

    Args:
      option: that names the path, for the error.
      path: of it.

    Raises:
      InputError: it is an address (gs://..., s3://...), which would become a folder `gs:` here.
    """
    if name := scheme(path):
        raise InputError(
            f"{option}={os.fspath(path)!r}: {name}:// is not supported; expected a folder of a "
            f"file system, e.g. /mnt/runs/first, where a bucket or a share may be mounted"
        )
    return pathlib.Path(path).absolute()


def split(option: str, address: str | os.PathLike) -> tuple[str, str]:
    """Scheme of an address, and the rest: gs://bucket/run is ('gs', 'bucket/run').

    Args:
      option: that names the address, for the error.
      address: scheme://bucket/path.

    Raises:
      InputError: the scheme is none of SCHEMES, or no bucket is named.
    """
    text, name = os.fspath(address), scheme(address)
    if name not in SCHEMES:
        raise InputError(
            f"{option}={text!r}: {name}:// is not supported; expected an address that begins with "
            + " or ".join(f"{there}://" for there in SCHEMES)
            + ", or a path, where a bucket or a share may be mounted"
        )
    rest = "/".join(filter(None, text[len(name) + 1 :].split("/")))
    if not rest:
        raise InputError(f"{option}={text!r}: no bucket; expected e.g. {name}://bucket/folder")
    return name, rest


def filesystem(name: str) -> Any:
    """The file system (fsspec) of a scheme, made once a process, and anew after a fork.

    It tries a request again for some seconds, and remembers no listing: what another process
    has written is seen at once. Its errors are of many kinds: call it inside `translated`.

    Args:
      name: a key of SCHEMES.

    Raises:
      InputError: its library is not installed; the message names the extra.
    """
    return SCHEMES[name]()


@contextlib.contextmanager
def translated(address: str) -> Iterator[None]:
    """Within the context, errors of buckets are OSErrors that name the address.

    Raises:
      FileNotFoundError: there is no such object or bucket.
      FileExistsError: there is already, and it was to be new.
      PermissionError: no credentials, or they do not allow it.
      BucketError: what may pass.
    """
    try:
        yield
    except InputError:
        raise
    except tuple(_NUMBER) as error:
        kind = next(kind for kind in _NUMBER if isinstance(error, kind))
        raise kind(_NUMBER[kind], error.strerror or str(error), address) from error
    except Exception as error:
        yes = isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS
        if not yes:
            raise
        kind = _kind(error)
        raise kind(_NUMBER.get(kind, errno.EREMOTEIO), _text(error), address) from error


_NUMBER = {
    FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, PermissionError: errno.EACCES,
}  # fmt: skip


def _kind(error: BaseException) -> type[OSError]:
    text = f"{type(error).__name__} {error}"
    if "PreconditionFailed" in repr(error.__cause__) + text:
        return FileExistsError
    code = getattr(error, "code", None)
    if text.startswith(_NO_ENTRY) or "Forbidden" in text or code in (401, 403):
        return PermissionError
    return BucketError


def _text(error: BaseException) -> str:
    """One line; some clients' errors say nothing but their name."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
