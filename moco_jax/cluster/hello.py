"""How a process says that it is of this run: a fixed number of bytes, checked before it is read.

The hub answers whoever connects with a number of its own, and takes those in who know the run's
token: SHA-256 keyed with it (HMAC, RFC 2104) over that number and what they say. Nothing else that
a stranger sends is looked at.
"""

import hashlib
import hmac
import os
import secrets
import socket
import struct
import time
from typing import NamedTuple

TOKEN = "MOCO_JAX_RUN_TOKEN"  # a launcher may hand out a secret of the run here
_JOBS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")
_NONCE = 16
_BODY = struct.Struct("!8sII64s")
_MAGIC = b"moco_jax"
_SIZE = _BODY.size + hashlib.sha256().digest_size


class Hello(NamedTuple):
    """Which process of how many, on which host."""

    index: int
    count: int
    host: str


def token_of(coordinator: str) -> bytes:
    """What only the run's processes know, 32 bytes: from $MOCO_JAX_RUN_TOKEN, where it is set.

    Otherwise from what they share, coordinator and job, which keeps other runs and stray programs
    out, but nobody who knows these.
    """
    shared = [coordinator, *(os.environ.get(name, "") for name in _JOBS)]
    return hashlib.sha256((os.environ.get(TOKEN) or "\n".join(shared)).encode()).digest()


def greet(connection: socket.socket, token: bytes, hello: Hello, seconds: float) -> None:
    """Says to the hub who this is.

    Args:
      connection: to the hub.
      token: see `token_of`.
      hello: who this is.
      seconds: that an answer may take.

    Raises:
      OSError: the hub is gone, or talks something else.
    """
    nonce = _receive(connection, _NONCE, seconds)
    host = hello.host.encode("ascii", "replace")[:64]
    body = _BODY.pack(_MAGIC, hello.index, hello.count, host)
    connection.sendall(body + hmac.digest(token, nonce + body, "sha256"))


def admit(connection: socket.socket, token: bytes, seconds: float) -> Hello | None:
    """Who is at the other end; None for a stranger, who gets nothing but a random number.

    Args:
      connection: of who has come.
      token: see `token_of`.
      seconds: that an answer may take.
    """
    try:
        nonce = secrets.token_bytes(_NONCE)
        connection.sendall(nonce)
        message = _receive(connection, _SIZE, seconds)
    except OSError:
        return None
    body, proof = message[: _BODY.size], message[_BODY.size :]
    if not hmac.compare_digest(proof, hmac.digest(token, nonce + body, "sha256")):
        return None
    _, index, count, host = _BODY.unpack(body)
    return Hello(index, count, host.rstrip(b"\0").decode("ascii", "replace"))


def _receive(connection: socket.socket, size: int, seconds: float) -> bytes:
    """Exactly `size` bytes that come within so many seconds in all, however slowly each."""
    deadline, got = time.monotonic() + seconds, b""
    while len(got) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the other end says nothing")
        connection.settimeout(left)
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionResetError("the other end hung up")
        got += part
    connection.settimeout(None)
    return got
