"""Features of a bank of images, kept once on each host, whatever number of processes it has.

N images, F features
"""

import hashlib
import os
import pathlib
import shutil
import socket
import tempfile

import jax
import numpy as np
from jax.experimental import multihost_utils

from moco_jax.data.prefetch import Prefetcher
from moco_jax.evals.extraction import Encode, extract, feature_batches


def collected(encode: Encode, batches: Prefetcher, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The features of all batches and their labels.

    Where a host has several processes, the first of them writes a file that all map into memory;
    it has no name any more when this returns.

    Args:
      encode: as for `extraction.feature_batches`.
      batches: evaluation batches on the devices; all processes have the same.
      most: images of these batches, at most.

    Returns:
      Features (N, F) float32 and labels (N,) int32.

    Raises:
      NotFiniteError: there is a NaN or an infinity among them.
      InputError: there is no image.
    """
    first, alone = _place()
    if jax.process_count() == 1 or alone:
        return extract(encode, batches)
    token = int(multihost_utils.broadcast_one_to_all(np.random.default_rng().integers(2**31)))
    folder = pathlib.Path(tempfile.gettempdir()) / f"moco_jax-bank-{token:08x}"
    return _shared(encode, batches, most, folder / "features.npy", first)


def _shared(
    encode: Encode, batches: Prefetcher, most: int, file: pathlib.Path, writing: bool
) -> tuple[np.ndarray, np.ndarray]:
    labels, start, array = [], 0, None
    for part in feature_batches(encode, batches):
        rows = slice(start, start := start + len(part.index))
        labels.append(part.labels)
        if writing:
            if array is None:
                file.parent.mkdir(mode=0o700)
                shape = (most, part.features.shape[1])
                array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
                _allocate(file)
            array[rows] = part.features
    if writing:
        array.flush()
    multihost_utils.sync_global_devices("bank written")
    bank = np.load(file, mmap_mode="r")[:start]
    multihost_utils.sync_global_devices("bank mapped")
    if writing:
        shutil.rmtree(file.parent)  # those who have mapped it keep it
    return bank, np.concatenate(labels)


def _allocate(file: pathlib.Path) -> None:
    """Takes the space now: writing to a map of a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _place() -> tuple[bool, bool]:
    """Whether this process is the first of its host, and whether every host has one alone."""
    digest = hashlib.sha256(socket.gethostname().encode()).digest()
    mine = np.frombuffer(digest[:8], np.uint32)
    hosts = multihost_utils.process_allgather(mine).reshape(-1, 2).tolist()
    index = jax.process_index()
    return hosts.index(hosts[index]) == index, len({tuple(host) for host in hosts}) == len(hosts)
