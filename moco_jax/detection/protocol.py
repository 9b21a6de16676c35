"""The experiment of `protocol='detection'`: annotated images and a detector, in the one loop."""

import hashlib
from functools import partial

import jax
from ml_collections import ConfigDict

from moco_jax import config as options
from moco_jax.data import pipeline
from moco_jax.detection import batches, coco_ap, task
from moco_jax.detection.annotated import AnnotatedSet, AnnotatedSplits, open_annotated
from moco_jax.detection.architecture import of_resnet, renamed
from moco_jax.detection.framing import Framing
from moco_jax.detection.measured import evaluation
from moco_jax.errors import InputError
from moco_jax.training import experiment
from moco_jax.training.experiment import Experiment
from moco_jax.training.facts import course_of
from moco_jax.training.own import Own

# Options that have no meaning for a detector or a segmenter, and the value that says so.
_FIXED = {
    "accumulate": 1, "init_part": "backbone", "init_recipe": False, "data.label_share": 1.0,
    "data.test_share": 0.0, "model.remat": "none", "model.resnet.stem": "imagenet",
    "model.resnet.zero_init_residual": False,
}  # fmt: skip


def build(config: ConfigDict) -> Experiment:
    """Builds data, detector and optimizer; what is wrong in the config shows here.

    Raises:
      InputError: a value is bad, or values do not fit each other or the data.
      BackendError: the named backend is not there.
    """
    return assembled(config, checked(config), _data(config))


def checked(config: ConfigDict) -> jax.sharding.Mesh:
    """As `experiment.checked`; and options without a meaning have the value that says so.

    Args:
      config: of the run.

    Raises:
      InputError: they have another.
    """
    mesh, flat = experiment.checked(config), options.flat(config.to_dict())
    for name, value in _FIXED.items():
        if (given := flat[name]) != value:
            raise InputError(f"{name}={given!r}: expected {value!r} with "
                             f"protocol={config.protocol!r}")  # fmt: skip
    return mesh


def assembled(config: ConfigDict, mesh: jax.sharding.Mesh, data: AnnotatedSplits) -> Experiment:
    """The experiment of a config whose options are in their ranges, and of images that are open.

    Args:
      config: the options.
      mesh: over the devices.
      data: with a test part.

    Raises:
      InputError: values do not fit each other, the data or the devices.
    """
    train = data.train
    made = task.make(config, len(train.class_names), len(train.keypoint_names))
    channels = pipeline.channel_stats(train, config.data)
    course = course_of(config, len(train) / config.data.batch_size)
    views = partial(task.normalized, mean=channels[0], std=channels[1])
    x = experiment.composed(config, mesh, data, channels, made, views, course)
    named = {"classes": list(train.class_names), "category_ids": list(train.category_ids)}
    found = experiment.computed(config, mesh) | {"images": _fingerprint(data)} | named
    network, stream = config.detection.network, partial(_train_batches, x)
    own = Own(
        batches=stream,
        renamed=partial(renamed, network),
        taken=of_resnet(network),
        evaluation=evaluation(x, stream),
    )
    return x._replace(found=found, own=own)


def _data(config: ConfigDict) -> AnnotatedSplits:
    """What is trained on, and the test images: of `evals.source`, or the source's own.

    Raises:
      InputError: there are none, or they have other classes, or what is to be learned is missing.
    """
    source, other = config.data.source, config.evals.source
    train, test = open_annotated(source)
    if other:
        own = open_annotated(other)
        test = own.test or own.train
    if test is None:
        raise InputError(f"data.source={source!r} has no test images; evals.source names others")
    for name in ("class_names", "category_ids", "keypoint_names"):
        if getattr(test, name) != getattr(train, name):
            raise InputError(f"{test.name} has other {name} than {train.name}: "
                             f"{getattr(test, name)}, {getattr(train, name)}")  # fmt: skip
    d, points = config.detection, len(train.keypoint_names)
    if d.keypoints and (given := len(d.spreads) or coco_ap.PEOPLE) != points:
        raise InputError(f"detection.spreads={tuple(d.spreads)} are of {given} keypoints; expected "
                         f"one for each of the {points} of {train.name}")  # fmt: skip
    if d.masks and not any(any(image.shapes) for image in train.images):
        raise InputError(f"detection.masks=True, and {train.name} has no outlines")
    return AnnotatedSplits(train.for_training(), test)


def _train_batches(x: Experiment, start: int) -> pipeline.Prefetcher:
    c, d = x.config, x.config.detection
    framing = Framing(
        tuple(d.canvas), tuple(d.sides), d.longest, mirrored=d.mirrored, boxes=d.boxes, bits=d.masks
    )
    return batches.train_batches(
        x.data.train, framing, c.data, c.seed, start, **batches.sent(x.mesh)
    )


def _fingerprint(data: AnnotatedSplits) -> dict[str, str]:
    """As `data.fingerprint`: the number of images of each part, and a digest of their objects."""
    return {"train": _digest(data.train), "test": _digest(data.test)}


def _digest(part: AnnotatedSet) -> str:
    digest = hashlib.sha256(repr((len(part), part.class_names)).encode())
    for image in part.images:
        digest.update(image.name.encode(errors="replace"))
        digest.update(image.boxes.tobytes() + image.classes.tobytes())
    return f"{len(part)} images, {digest.hexdigest()[:16]}"
