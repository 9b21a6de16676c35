"""What `config.knn` asks for: how many neighbours, of which images."""

import itertools
import logging

from ml_collections import ConfigDict

from moco_jax.config import FEATURES, choose
from moco_jax.data.source import Splits
from moco_jax.errors import InputError

log = logging.getLogger(__name__)


def watched(knn: ConfigDict) -> ConfigDict:
    """The options for a measurement while training goes on: a bank and queries of bounded number.

    kNN of a set like ImageNet would else be passes over all images before the first step.
    """
    options = knn.copy_and_resolve_references()
    for part in ("train", "test"):
        bounds = [n for n in (knn[f"max_{part}"], knn[f"watch_{part}"]) if n]
        options[f"max_{part}"] = min(bounds, default=0)
    return options


def leaves_one_out(data: Splits) -> bool:
    """Whether there are no labelled test images, so that training images are classified."""
    return data.test is None or not data.test.labelled


def bank_of(knn: ConfigDict, data: Splits) -> int:
    """How many images the watched vote has at most to choose neighbours from.

    Args:
      knn: `config.knn`.
      data: the images.
    """
    limit, images = watched(knn).max_train, len(data.train)
    return min(limit or images, images) - leaves_one_out(data)


def check_bank(knn: ConfigDict, data: Splits) -> None:
    """Raises InputError where the watched vote asks for more neighbours than the bank has.

    Args:
      knn: `config.knn`.
      data: the images.
    """
    bank = bank_of(knn, data)
    if knn.every_epochs and data.train.labelled and knn.k > bank:
        raise InputError(
            f"knn.k={knn.k}: expected at most the {bank} images of the bank, or 0: by their number"
        )


def default_k(bank: int) -> int:
    """Neighbours where the options name no number.

    The papers' 200, of the bank's more than a million images or CIFAR-10's 50,000; where these are
    fewer than 10,000 a fiftieth, at least 5: else most of the neighbours are of other classes.
    """
    return max(1, min(200, max(5, bank // 50), bank))


def resolved(knn: ConfigDict, bank: int) -> ConfigDict:
    """The options with a number of neighbours, that of `default_k` where they name none.

    Args:
      knn: `config.knn`.
      bank: images to choose neighbours from.
    """
    if knn.k:
        return knn
    found = knn.copy_and_resolve_references()
    found.k = default_k(bank)
    if found.k != 200:
        log.info("kNN: k = %d, for a bank of %d images (knn.k=0)", found.k, bank)
    return found


def pairs_of(knn: ConfigDict) -> list[tuple[int, float]]:
    """All pairs of k and temperature that the options ask for, the watched one first.

    Raises:
      InputError: one of them is not above 0, or `knn.features` is unknown.
    """
    choose("knn.features", knn.features, FEATURES)
    ks, temperatures = (knn.k, *knn.ks), (knn.temperature, *knn.temperatures)
    if knn.k < 0 or min(knn.ks, default=1) < 1 or not all(t > 0 for t in temperatures):
        raise InputError(f"knn: k of {ks} and temperature of {temperatures}; expected above 0")
    return list(dict.fromkeys(itertools.product(ks, temperatures)))
