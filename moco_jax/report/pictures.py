"""What a report shows of the model and the data: views, nearest neighbours, a map of features.

N images looked at, Q queries, K neighbours, F features, S image size, V columns of views
"""

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax.data import contact_sheet
from moco_jax.data.source import Source
from moco_jax.errors import InputError
from moco_jax.evals.evaluation import Context
from moco_jax.evals.extraction import Encode, Features, feature_batches
from moco_jax.extras import extra
from moco_jax.mesh import everywhere
from moco_jax.report import similar, thumbnails

log = logging.getLogger(__name__)

IMAGES = 2000  # that neighbours are sought among, and that the map shows
QUERIES, NEIGHBOURS = 10, 8
_THUMBNAIL = 112  # pixels of an encoded image
_MAP_STEPS = 500  # of t-SNE; 1,000 take twice the time and change little
_PERPLEXITY = 30  # neighbours that t-SNE keeps near; scikit-learn's default

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


class Sample(NamedTuple):
    """The images that are shown: their features, and thumbnails uint8 (N, H, W, 3)."""

    source: Source
    of: Features
    small: np.ndarray


def collect(context: Context, encode: Encode) -> Arrays:
    """All pictures of a run as arrays by name; {} on other processes than the first.

    A picture that cannot be made is left out with one warning.

    Args:
      context: of the run; the images are its test images, or training images where it has none.
      encode: evaluation batch -> features (B, F); called by all processes together.
    """
    source = context.evaluated.test or context.evaluated.train
    sample = _attempt("features", partial(_sample, context, source, encode))
    if jax.process_index():
        return {}
    names = np.array(context.evaluated.train.class_names, np.str_)
    arrays = {"class_names": names, "split": np.array(source.name)}
    arrays |= _attempt("views", partial(_views, context)) or {}
    if sample:
        data, seed = context.config.data, context.config.seed
        arrays |= _attempt("nearest neighbours", partial(_neighbours, sample, data)) or {}
        arrays |= _attempt("precision of neighbours", partial(_precision, sample)) or {}
        arrays |= _attempt("map of features", partial(_map, sample, seed)) or {}
    return arrays


def _attempt(what: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception as error:  # the rest of the report is worth having
        log.warning("No %s in the report: %s: %s", what, type(error).__name__, error)
        return None


def _sample(context: Context, source: Source, encode: Encode) -> Sample | None:
    """The images; None, in all processes, where one cannot read its share."""
    with context.batches(source, limit=IMAGES) as batches:
        read = _attempt("images", lambda: list(batches))
    if not everywhere(read is not None):
        return None
    parts = zip(*feature_batches(encode, contextlib.nullcontext(read)))
    of = Features(*(np.concatenate(part) for part in parts))
    return Sample(source, of, thumbnails.made(source, of.index, read))


def _views(context: Context) -> Arrays:
    shown = contact_sheet.views(context.data.train, context.config, context.task.views)
    return {"views": contact_sheet.as_rgb(shown)}


def _neighbours(sample: Sample, d: ConfigDict) -> Arrays:
    """Queries, their neighbours by features, and beside them those by raw pixels."""
    source, of, _ = sample
    rows = similar.queries(of.labels, QUERIES)
    size = min(d.image_size, _THUMBNAIL)

    def show(index: np.ndarray) -> np.ndarray:
        return contact_sheet.as_rgb(contact_sheet.middles(source, index, d, size))

    arrays = {
        "queries": show(of.index[rows]),
        "query_labels": of.labels[rows],
        "query_names": _names(source, of.index[rows]),
        "place": np.array(_place(source, of.index[rows[0]])),
    }
    for prefix, features in (("", of.features), ("pixel_", _pixels(sample))):
        found, cosine = similar.nearest(features, rows, NEIGHBOURS)
        arrays |= {
            f"{prefix}neighbours": np.stack([show(of.index[row]) for row in found]),
            f"{prefix}neighbour_labels": of.labels[found],
            f"{prefix}neighbour_names": np.stack([_names(source, of.index[r]) for r in found]),
            f"{prefix}cosine": cosine,
        }
    return arrays


def _precision(sample: Sample) -> Arrays:
    """Precision of the neighbours of each image, by features and by raw pixels: (N,) each."""
    labels = sample.of.labels
    if not (labels >= 0).any():
        return {}
    both = {"precision": sample.of.features, "pixel_precision": _pixels(sample)}
    return {
        name: similar.precision(x, labels, NEIGHBOURS).astype(np.float32)
        for name, x in both.items()
    } | {"precision_labels": labels, "precision_k": np.array(min(NEIGHBOURS, len(labels) - 1))}


def _pixels(sample: Sample) -> np.ndarray:
    """Raw pixels (N, F), of thumbnails; all channels of those of gray images are one."""
    small = sample.small if sample.source.channels == 3 else sample.small[..., :1]
    return small.reshape(len(small), -1) / np.float32(255)


def _map(sample: Sample, seed: int) -> Arrays:
    source, of, small = sample
    return {
        "map": embed(of.features, seed),
        "map_labels": of.labels,
        "map_names": _names(source, of.index),
        "map_sheet": thumbnails.sheet(small),
        "map_size": np.array(small.shape[1:3]),
    }


def _names(source: Source, index: np.ndarray) -> np.ndarray:
    """What images are called, without the place that all of them share."""
    whole = [source.item_name(i) for i in index.tolist()]
    place = f"{source.understood.place}/"
    return np.array([name.removeprefix(place) for name in whole], np.str_)


def _place(source: Source, index: int) -> str:
    """The folder that names of images are in; "" where images are no files."""
    there = source.understood.place
    name = source.item_name(int(index))
    files = os.path.isabs(there) and name.startswith(f"{there}/") and os.path.isfile(name)
    return there if files else ""


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """A map of the features in which near ones stay near: t-SNE (JMLR 9, 2008) of cosines.

    t-SNE, not the first two principal components: those overlap where kNN still tells classes
    apart, while t-SNE keeps neighbourhoods, which is what kNN measures. Distances between groups
    and the axes have no meaning.

    Args:
      features: (N, F), N at least 4.
      seed: of its randomness; the same features and seed give the same map.

    Returns:
      (N, 2) float32.

    Raises:
      InputError: too few images.
    """
    with extra("report", "the map of features"):
        from sklearn.decomposition import PCA  # 2 s to import
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

    unit = similar.normalized(features)
    if len(unit) < 4:
        raise InputError(f"{len(unit)} images are too few")
    with threadpool_limits(1):  # more threads wait for each other longer than they work
        small = PCA(min(50, *unit.shape), random_state=seed).fit_transform(unit)
        perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
        tsne = TSNE(
            init="pca" if small.shape[1] > 1 else "random",
            max_iter=_MAP_STEPS, perplexity=perplexity, random_state=seed,
        )  # fmt: skip
        return tsne.fit_transform(small).astype(np.float32)
