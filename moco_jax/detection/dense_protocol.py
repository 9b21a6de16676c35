"""What the experiments of `protocol='detection'` and `'segmentation'` have in common."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from moco_jax import config as options
from moco_jax.data import pipeline
from moco_jax.detection.dense_task import DenseTask, normalized
from moco_jax.errors import InputError
from moco_jax.training import experiment
from moco_jax.training.experiment import Experiment
from moco_jax.training.facts import course_of

# Options that have no meaning for a detector or a segmenter, and the value that says so.
_FIXED = {
    "accumulate": 1, "init_part": "backbone", "init_recipe": False, "data.label_share": 1.0,
    "data.test_share": 0.0, "model.remat": "none", "model.resnet.stem": "imagenet",
    "model.resnet.zero_init_residual": False,
}  # fmt: skip


def checked(config: ConfigDict) -> jax.sharding.Mesh:
    """As `experiment.checked`; and options without a meaning have the value that says so.

    Args:
      config: of the run.

    Raises:
      InputError: they have another.
    """
    mesh = experiment.checked(config)
    check_fixed(config)
    return mesh


def check_fixed(config: ConfigDict) -> None:
    """Refuses what has no meaning here.

    Args:
      config: of the run.

    Raises:
      InputError: an option without a meaning has another value than the one that says so.
    """
    flat = options.flat(config.to_dict())
    for name, value in _FIXED.items():
        if (given := flat[name]) != value:
            raise InputError(f"{name}={given!r}: expected {value!r} with "
                             f"protocol={config.protocol!r}")  # fmt: skip


def opened(config: ConfigDict, open_splits: Callable[[str], Any]) -> tuple[Any, Any]:
    """What is trained on, and the test images: of `evals.source`, or the source's own.

    Args:
      config: of the run.
      open_splits: of a specification the parts of its set, train and test.

    Raises:
      InputError: there are no test images.
    """
    source, other = config.data.source, config.evals.source
    train, test = open_splits(source)
    if other:
        own = open_splits(other)
        test = own.test or own.train
    if test is None:
        raise InputError(f"data.source={source!r} has no test images; evals.source names others")
    return train, test


def composed(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    data: Any,
    task: DenseTask,
    told: Callable[[Any], bytes],
) -> Experiment:
    """The experiment without its `own`, for which it is needed.

    Args:
      config: the options.
      mesh: over the devices.
      data: the parts, train and test.
      task: what is trained.
      told: of an image, what makes the set another when it changes, beside the images' number.

    Raises:
      InputError: values do not fit each other, the data or the devices.
    """
    train = data.train
    channels = pipeline.channel_stats(train, config.data)
    course = course_of(config, len(train) / config.data.batch_size)
    views = partial(normalized, mean=channels[0], std=channels[1])
    x = experiment.composed(config, mesh, data, channels, task, views, course)
    images = {"train": _digest(train, told), "test": _digest(data.test, told)}
    found = {"images": images, "classes": list(train.class_names)}
    return x._replace(found=experiment.computed(config, mesh) | found)


def _digest(part: Any, told: Callable[[Any], bytes]) -> str:
    """As of `data.fingerprint`."""
    digest = hashlib.sha256(repr((len(part), part.class_names)).encode())
    for image in part.images:
        digest.update(told(image))
    return f"{len(part)} images, {digest.hexdigest()[:16]}"
