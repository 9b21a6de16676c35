"""Streams of batches, and images to make them of."""

import itertools

import numpy as np
from PIL import Image

from moco_jax import config
from moco_jax.data.source import ArraySource, EncodedSource

COUNT = 40


def options(**overrides):
    data = config.default().data
    data.update({"batch_size": 12, "eval_batch_size": 16, "image_size": 16, "threads": 2})
    data.processes = 1
    data.update(overrides)
    return data


def write_images(root):
    """Forty images of different content and size, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        path = root / f"{i % 2}" / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def make_array():
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 9, 1), dtype=np.uint8)
    return ArraySource("array", images, np.arange(COUNT, dtype=np.int32) % 3)


def broken(source, bad, error=None):
    """`source` with some images that cannot be read."""

    def read(index):
        if index in bad:
            if error:
                raise error
            return b"not an image", 0
        return source.read(index)

    name = "picture {}".format
    return EncodedSource("broken", len(source), read, name, source.labelled)


def take(batches, count=None):
    """Batches of a stream, their crops as one array (b, V, S, S, C)."""
    with batches:
        taken = list(itertools.islice(batches, count))
    return [b | {"crops": np.stack(b["crops"], 1)} if "crops" in b else b for b in taken]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key], key)


def join(parts):
    """The global batches, from the hosts' parts of them."""
    keys = parts[0][0].keys()
    return [{key: np.concatenate([p[key] for p in hosts]) for key in keys} for hosts in zip(*parts)]


def column(batches, key):
    return np.concatenate([batch[key] for batch in batches])
