"""A bucket in this process's memory, which can be told to fail."""

import contextlib

import fsspec

from moco_jax import files, places
from moco_jax.bucket import BucketPath
from moco_jax.cluster import lock


def empty_bucket(monkeypatch):
    """A workdir in a bucket that is empty at first, and no pauses."""
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.store.clear()
    monkeypatch.setitem(places.SCHEMES, "memory", lambda: memory)
    monkeypatch.setattr(files, "DELAYS", (0.0, 0.0))
    monkeypatch.setattr(files, "BUCKET_SECONDS", 0.0)
    monkeypatch.setattr(lock, "_SETTLE", 0.0)
    return BucketPath("memory://bucket/run")


@contextlib.contextmanager
def broken(monkeypatch, method, error, times=1000):
    """Within the context the bucket's method raises, so many times."""
    memory = places.filesystem("memory")
    works, left = getattr(memory, method), [times]

    def fail(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            return works(*args, **options)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(memory, method, fail, raising=False)
        yield
