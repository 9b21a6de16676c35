"""What a report shows of the model and the data: views, nearest neighbours, a map of features.

N images looked at, Q queries, K neighbours, F features, S image size, V columns of views
"""

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from moco_jax.data import contact_sheet, pipeline
from moco_jax.data.source import Source
from moco_jax.errors import InputError
from moco_jax.evals.evaluation import Context
from moco_jax.evals.extraction import Encode, Features, feature_batches
from moco_jax.extras import extra
from moco_jax.mesh import everywhere

log = logging.getLogger(__name__)

IMAGES = 2000  # that neighbours are sought among, and that the map shows
QUERIES = NEIGHBOURS = 8
_THUMBNAIL = 112  # pixels of an encoded image
_MAP_STEPS = 500  # of t-SNE; 1,000 take twice the time and change little
_PERPLEXITY = 30  # neighbours that t-SNE keeps near; scikit-learn's default

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


def collect(context: Context, encode: Encode) -> Arrays:
    """All pictures of a run as arrays by name; {} on other processes than the first.

    A picture that cannot be made is left out with one warning.

    Args:
      context: of the run; the images are its test images, or training images where it has none.
      encode: evaluation batch -> features (B, F); called by all processes together.
    """
    source = context.evaluated.test or context.evaluated.train
    found = _attempt("features", partial(_features, context, source, encode))
    if jax.process_index():
        return {}
    names = np.array(context.evaluated.train.class_names, np.str_)
    arrays = {"class_names": names, "split": np.array(source.name)}
    arrays |= _attempt("views", partial(_views, context)) or {}
    if found:
        arrays |= _attempt("nearest neighbours", partial(_neighbours, context, source, found)) or {}
        seed = context.config.seed
        arrays |= _attempt("map of features", partial(_map, source, found, seed)) or {}
    return arrays


def _attempt(what: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception as error:  # the rest of the report is worth having
        log.warning("No %s in the report: %s: %s", what, type(error).__name__, error)
        return None


def _features(context: Context, source: Source, encode: Encode) -> Features | None:
    """Features of the images; None, in all processes, where one cannot read its share."""
    with context.batches(source, limit=IMAGES) as batches:
        read = _attempt("images", lambda: list(batches))
    if not everywhere(read is not None):
        return None
    parts = zip(*feature_batches(encode, contextlib.nullcontext(read)))
    return Features(*(np.concatenate(part) for part in parts))


def _views(context: Context) -> Arrays:
    shown = contact_sheet.views(context.data.train, context.config, context.task.views)
    return {"views": contact_sheet.as_rgb(shown)}


def _neighbours(context: Context, source: Source, of: Features) -> Arrays:
    rows = pipeline.evenly(len(of.index), QUERIES)
    found, cosine = nearest(of.features, rows, NEIGHBOURS)
    d = context.config.data
    show = partial(contact_sheet.middles, source, d=d, size=min(d.image_size, _THUMBNAIL))
    return {
        "queries": contact_sheet.as_rgb(show(of.index[rows])),
        "query_labels": of.labels[rows],
        "query_names": _names(source, of.index[rows]),
        "neighbours": np.stack([contact_sheet.as_rgb(show(of.index[row])) for row in found]),
        "neighbour_labels": of.labels[found],
        "neighbour_names": np.stack([_names(source, of.index[row]) for row in found]),
        "cosine": cosine,
    }


def nearest(features: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other images of some of the images, by cosine, the nearest first.

    Args:
      features: (N, F) of any length.
      rows: (Q,) of the queries.
      k: neighbours; all N - 1 others where there are fewer.

    Returns:
      Rows of the neighbours (Q, k) int64 and their cosines (Q, k) float32.

    Raises:
      InputError: there is no other image.
    """
    unit = _normalized(features)
    if len(unit) < 2:
        raise InputError("there is only one image")
    cosine = unit[rows] @ unit.T
    cosine[np.arange(len(rows)), rows] = -np.inf
    found = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, len(unit) - 1)]
    return found, np.take_along_axis(cosine, found, 1)


def _map(source: Source, of: Features, seed: int) -> Arrays:
    names = _names(source, of.index)
    return {"map": embed(of.features, seed), "map_labels": of.labels, "map_names": names}


def _names(source: Source, index: np.ndarray) -> np.ndarray:
    """What images are called, without the place that all of them share."""
    whole = [source.item_name(i) for i in index.tolist()]
    place = f"{source.understood.place}/"
    return np.array([name.removeprefix(place) for name in whole], np.str_)


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

    unit = _normalized(features)
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


def _normalized(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)
