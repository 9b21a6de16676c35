"""WebDataset shards of small images, written by Python's tarfile."""

import io
import os
import tarfile
import time

import numpy as np
from PIL import Image

from moco_jax import config
from moco_jax.data import pipeline
from moco_jax.data.source import open_source


def png(level, size=(6, 8)):
    """An image of one level, encoded."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def sample(level, label=None, key=None):
    """Files of one sample: name -> content."""
    key = key or f"{level:04}"
    files = {f"{key}.png": png(level)}
    return files if label is None else files | {f"{key}.cls": str(label).encode()}


def samples(levels, labels=None):
    """Files of some samples."""
    labels = labels or [None] * len(levels)
    return {k: v for s in map(sample, levels, labels) for k, v in s.items()}


def make_shard(path, files, form=tarfile.GNU_FORMAT, age=60):
    """A shard of some files, in this order, written a while ago; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return aged(path, age)


def aged(path, age=60):
    """Makes a file look as written a while ago."""
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def read_with_tarfile(path):
    """Name -> content of the files of a shard."""
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def opened(root, *columns, pattern=""):
    """A source of shards, its index kept beside them."""
    return open_source(f"wds:{pattern or root}", str(root / "cache"), *columns)


def stream(where, root, steps, start=0, processes=1):
    """Batches of a source whose index is kept in `root`."""
    data = config.default().data
    data.update(batch_size=3, threads=2, processes=processes, image_size=8, array_gb=0.0)
    data.update(source=f"wds:{where}", cache_dir=str(root / "cache"))
    with pipeline.train_batches(pipeline.open_data(data).train, data, 5, start) as batches:
        return [next(batches) for _ in range(steps)]
