"""The JSON beside a checkpoint's arrays: config and checksums, under a checksum of their own."""

import hashlib
import json
import logging
from typing import Any

from moco_jax.bucket import Place

log = logging.getLogger(__name__)

_SEAL = "sha256"
_KEYS = {"position": int, "config": dict, "checksums": dict}


def seal(meta: dict[str, Any]) -> dict[str, Any]:
    """`meta` with SHA-256 of its canonical JSON."""
    return meta | {_SEAL: _digest(meta)}


def read_meta(step: Place) -> dict[str, Any]:
    """Position, config and checksums of the checkpoint in `step`.

    Raises:
      ValueError: they are damaged, or something of them is gone.
      OSError: the file cannot be read.
    """
    path = step / "meta" / "metadata"
    meta = json.loads(path.read_bytes())
    gone = [k for k, kind in _KEYS.items() if not isinstance(dict(meta).get(k), kind)]
    if gone:
        raise ValueError(f"{path} is damaged: no {', '.join(gone)}")
    sum_ = meta.pop(_SEAL, None)
    if sum_ is None:
        log.warning("%s has no checksum: an older version wrote it, or it is damaged", path)
    elif sum_ != _digest(meta):
        raise ValueError(f"{path} is damaged: wrong checksum of the config and the checksums")
    return meta


def _digest(meta: dict[str, Any]) -> str:
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
