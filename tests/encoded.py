"""Images of smooth content, encoded in memory."""

import io

import cv2
import numpy as np

from moco_jax.data import decoding, host_crop


def smooth(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(
        height, width, channels
    )


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def resized(image, size):
    out = np.empty((size, size, 3), np.uint8)
    host_crop.resize(image, out)
    return out


def random_views(data, rng, regions, size):
    views = np.empty((len(regions), size, size, 3), np.uint8)
    host_crop.random_views(data, decoding.read_header(data, 10**8), rng, regions, views)
    return views
