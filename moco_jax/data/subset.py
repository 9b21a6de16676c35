"""A part of a source: a class-balanced share of its labels, and what is held out of training.

N images of the source, M of the part, K classes
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_jax.data.source import ArraySource, Source, Splits
from moco_jax.data.summary import kinds_of
from moco_jax.errors import InputError

log = logging.getLogger(__name__)


def count_classes(source: Source) -> int:
    """K: the named classes, or one more than the largest label; 0 without labels."""
    if not source.labelled:
        return 0
    if source.class_names or not isinstance(source, ArraySource):
        return len(source.class_names)
    return int(source.labels.max()) + 1


def labels_of(source: Source) -> np.ndarray:
    """All labels, int32 (N,), without decoding images; InputError where there are none."""
    if not source.labelled:
        raise InputError(f"{source.name} has no labels")
    return source.labels if isinstance(source, ArraySource) else source.read_labels()


def take(source: Source, index: np.ndarray) -> Source:
    """The images `index`, int (M,), of a source, in that order."""
    name = f"{source.name}, {len(index)} of {len(source)}"
    name_of = functools.partial(_through, source.item_name, index)
    if isinstance(source, ArraySource):
        labels = None if source.labels is None else source.labels[index]
        images = source.images[index]
        return dataclasses.replace(source, name=name, images=images, labels=labels, name_of=name_of)
    return dataclasses.replace(
        source,
        name=name,
        size=len(index),
        read=functools.partial(_through, source.read, index),
        item_name=name_of,
        read_labels=functools.partial(_labels_at, source, index),
    )


def labelled_only(source: Source | None) -> Source | None:
    """The images that have a label, and a line that says how many; all where all have one."""
    if source is None or not source.labelled:
        return source
    if source.understood.unlabelled is None:  # not counted: of those looked at none lacks one
        return source
    has = labels_of(source) >= 0
    if has.all():
        return source
    log.info("%d of the %d images of %s have labels; those are used where labels are needed",
             has.sum(), len(has), source.name)  # fmt: skip
    return take(source, np.flatnonzero(has))


def label_share(source: Source, share: float, seed: int) -> Source:
    """As large a share of every class, at least one image of each, drawn by seed.

    Args:
      source: labelled.
      share: in (0, 1].
      seed: of the draw.

    Raises:
      InputError: the share is not in (0, 1], or there are no labels.
    """
    if not 0 < share <= 1:
        raise InputError(f"data.label_share={share}: expected above 0 and at most 1")
    if share == 1:
        return source
    if not source.labelled:
        raise InputError(f"data.label_share={share} needs labels, and {source.name} has none")
    source = labelled_only(source)
    return take(source, stratified(labels_of(source), share, seed))


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted indices of round(share * n), but at least one, of the n images of every class.

    Args:
      labels: integers (N,).
      share: in (0, 1].
      seed: of the draw.
    """
    order = _order(seed, 0, len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return np.sort(np.concatenate([g[: max(1, round(share * len(g)))] for g in groups]))


def hold_out(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """The source without a random share of its images, and that share: at least one in each.

    Args:
      source: images, with labels or not.
      share: in (0, 1).
      seed: of the draw.

    Raises:
      InputError: the share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise InputError(f"supervised.held_out={share}: expected above 0 and below 1")
    n = len(source)
    order, count = _order(seed, 1, n), min(max(1, round(share * n)), n - 1)
    return take(source, np.sort(order[count:])), take(source, np.sort(order[:count]))


def with_test(splits: Splits, share: float, seed: int) -> Splits:
    """A data set whose test images are a share of every class of its training images.

    Of a class at least one image is held out, and one stays; images without a label stay.

    Args:
      splits: without labelled test images.
      share: in (0, 1).
      seed: which images they are.

    Raises:
      InputError: there are labelled test images already, or no labels, or no class has two images.
    """
    train, test = splits
    said = f"data.test_share={share:g}"
    if test is not None and test.labelled:
        raise InputError(f"{said}: {train.name} has test images of its own ({test.name}); expected "
                         "0")  # fmt: skip
    if not train.labelled:
        raise InputError(f"{said} needs labels, and {train.name} has none; expected 0")
    labels = labels_of(train)
    order = _order(seed, 2, len(labels))
    groups = [order[labels[order] == label] for label in np.unique(labels[labels >= 0])]
    chosen = [g[: min(max(1, round(share * len(g))), len(g) - 1)] for g in groups]
    index = np.sort(np.concatenate([*chosen, np.zeros(0, np.int64)]).astype(np.int64))
    if not len(index):
        raise InputError(f"{said}: no class of {train.name} has two labelled images; expected 0")
    note = f"{len(index)} of {len(labels)}, {share:g} of every class by seed {seed}"
    kept = np.setdiff1d(np.arange(len(labels)), index)
    return Splits(
        _part(train, kept, train.name, f"test images are {note}"),
        _part(train, index, f"{train.name}; held out {note}"),
    )


def _part(source: Source, index: np.ndarray, name: str, *notes: str) -> Source:
    """The images `index` under a name of their own, and what is said of them."""
    part = dataclasses.replace(take(source, index), name=name)
    said = source.understood
    names = (part.item_name(i) for i in range(len(part)))
    kinds = kinds_of(names) if len(said.kinds) > 1 else dict.fromkeys(said.kinds, len(part))
    said = dataclasses.replace(said, images=len(part), kinds=kinds).noting(*notes)
    return dataclasses.replace(
        part, understood=said.labelled(said.labels, labels_of(part), part.class_names)
    )


def _order(seed: int, purpose: int, n: int) -> np.ndarray:
    # Another key than that of any epoch's order of images.
    return np.random.Generator(np.random.Philox(key=[seed, 2**32 + purpose])).permutation(n)


def _labels_at(source: Source, index: np.ndarray) -> np.ndarray:
    return labels_of(source)[index]


def _through(get: Callable[[int], Any], index: np.ndarray, i: int) -> Any:
    return get(int(index[i]))
