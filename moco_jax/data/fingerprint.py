"""What tells one data set from another, wherever it lies: number, names and labels of its images.

N images.
"""

import hashlib
import os

import numpy as np

from moco_jax.data.pipeline import evenly
from moco_jax.data.source import ArraySource, Source, Splits

_SAMPLE = 64  # images of an array whose pixels are looked at


def fingerprint(data: Splits) -> dict[str, str]:
    """One line for each part: the number of images, and a digest of what tells them from others.

    Of a folder these are the names of classes and files below it; of an array its shape, labels
    and some of its images; of a data set of TFDS or Hugging Face its name. Files are not read.
    """
    parts = {"train": data.train, "test": data.test}
    return {name: _digest(source) for name, source in parts.items() if source}


def _digest(source: Source) -> str:
    digest = hashlib.sha256(repr((len(source), source.class_names)).encode())
    if isinstance(source, ArraySource):
        digest.update(repr(source.images.shape).encode())
        digest.update(b"" if source.labels is None else source.labels.astype(np.int64).tobytes())
        digest.update(source.images[evenly(len(source), _SAMPLE)].tobytes())
    else:
        # What is held out of a folder as test images is named by it as well.
        root = os.path.join(source.name.partition("; ")[0].partition(":")[2], "")
        for index in range(len(source)):
            digest.update(source.item_name(index).removeprefix(root).encode(errors="replace"))
    return f"{len(source)} images, {digest.hexdigest()[:16]}"
