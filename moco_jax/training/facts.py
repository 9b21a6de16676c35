"""What a method is told of the training images and of the length of the run."""

import itertools

from moco_jax.config import ConfigDict
from moco_jax.data import subset
from moco_jax.data.source import Source
from moco_jax.errors import InputError
from moco_jax.methods.method import Facts
from moco_jax.ops.course import Course


def facts_of(config: ConfigDict, train: Source) -> Facts:
    """What a method is told of the training images and the length of the run.

    Args:
      config: of the run.
      train: its training images.
    """
    size, steps_per_epoch = config.data.image_size, len(train) / config.data.batch_size
    return Facts(
        images=len(train),
        classes=subset.count_classes(train),
        image_shape=(size, size, train.channels),
        steps=course_of(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
    )


def course_of(config: ConfigDict, steps_per_epoch: float) -> Course:
    """The steps of the run, and those of each length that it was to have before.

    Args:
      config: of the run.
      steps_per_epoch: need not be whole.

    Raises:
      InputError: these do not grow, or a rate of 0 is to be held.
    """
    epochs = (*config.extended_from, config.epochs)
    ends = [max(1, round(e * steps_per_epoch)) for e in epochs]
    if any(after <= before for before, after in itertools.pairwise(ends)):
        raise InputError(
            f"extended_from={config.extended_from}: expected epochs that grow up to epochs="
            f"{config.epochs:g}"
        )
    if config.extended_from and config.extension == "hold" and config.optim.schedule == "cosine":
        raise InputError(
            "extension='hold' keeps the last rate, and with optim.schedule='cosine' that is 0; "
            "expected 'stretch' or 'restart'"
        )
    return Course(ends[-1], tuple(ends[:-1]), config.extension)
