"""The experiment of `protocol='detection'`: annotated images and a detector, in the one loop."""

from functools import partial

import jax
from ml_collections import ConfigDict

from moco_jax.cost.absent import Size
from moco_jax.data.prefetch import Prefetcher
from moco_jax.detection import batches, coco_ap, dense_protocol, numbered, task
from moco_jax.detection.annotated import Annotated, AnnotatedSplits, open_annotated
from moco_jax.detection.architecture import of_resnet, renamed
from moco_jax.detection.dense_protocol import checked, opened
from moco_jax.detection.framing import Framing, canvases_of
from moco_jax.detection.measured import evaluation
from moco_jax.errors import InputError
from moco_jax.training.experiment import Experiment
from moco_jax.training.own import Own


def build(config: ConfigDict) -> Experiment:
    """Builds data, detector and optimizer; what is wrong in the config shows here.

    Raises:
      InputError: a value is bad, or values do not fit each other or the data.
      BackendError: the named backend is not there.
    """
    return assembled(config, checked(config), _data(config))


def planned(config: ConfigDict, mesh: jax.sharding.Mesh, size: Size | None) -> Experiment:
    """The experiment of a config on devices and images of which only the numbers are known.

    Args:
      config: whose options are in their ranges.
      mesh: over the devices.
      size: of the data; None: that of a data set with a known name.

    Raises:
      InputError: values do not fit each other, the size is not known, or there are several
        canvases.
    """
    dense_protocol.check_fixed(config)
    if more := config.detection.more_canvases:
        raise InputError(f"detection.more_canvases={tuple(more)}: expected () in a plan, which is "
                         "of one program; plan each as detection.canvas")  # fmt: skip
    keypoints = _spread(config) if config.detection.keypoints else 0
    return assembled(config, mesh, numbered.annotated(config, size, keypoints))


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
    x = dense_protocol.composed(config, mesh, data, made, _told)
    x = x._replace(found=x.found | {"category_ids": list(train.category_ids)})
    network, framing = config.detection.network, _framing(config)
    stream = partial(_train_batches, x, framing)
    row = batches.blank(framing, len(train.keypoint_names))
    own = Own(
        batches=stream,
        entries=batches.entries_of(row, config.data.batch_size),
        renamed=partial(renamed, network),
        taken=of_resnet(network),
        evaluation=evaluation(x, stream),
        canvases=canvases_of(config.detection),
    )
    return x._replace(own=own)


def _data(config: ConfigDict) -> AnnotatedSplits:
    """What is trained on, and the test images: of `evals.source`, or the source's own.

    Raises:
      InputError: there are none, or they have other classes, or what is to be learned is missing.
    """
    train, test = opened(config, open_annotated)
    for name in ("class_names", "category_ids", "keypoint_names"):
        if getattr(test, name) != getattr(train, name):
            raise InputError(f"{test.name} has other {name} than {train.name}: "
                             f"{getattr(test, name)}, {getattr(train, name)}")  # fmt: skip
    d, points = config.detection, len(train.keypoint_names)
    outlines = any(any(image.shapes) for image in train.images)
    for option, wanted, there in (("masks", d.masks, outlines), ("keypoints", d.keypoints, points)):
        if wanted and not there:
            what = {"masks": "outlines"}.get(option, option)
            raise InputError(f"detection.{option}=True, and {train.name} has no {what}; expected "
                             "coco:ANNOTATIONS.json:IMAGES with them")  # fmt: skip
    if d.keypoints and (given := _spread(config)) != points:
        raise InputError(f"detection.spreads={tuple(d.spreads)} are of {given} keypoints; expected "
                         f"one for each of the {points} of {train.name}")  # fmt: skip
    return AnnotatedSplits(train.for_training(), test)


def _spread(config: ConfigDict) -> int:
    """Keypoints that have a spread."""
    return len(config.detection.spreads) or coco_ap.PEOPLE


def _framing(config: ConfigDict) -> Framing:
    d = config.detection
    canvas, *others = canvases_of(d)
    return Framing(
        canvas, tuple(d.sides), d.longest, d.mirrored, d.boxes, bits=d.masks, others=tuple(others)
    )


def _train_batches(x: Experiment, framing: Framing, start: int) -> Prefetcher:
    c = x.config
    return batches.train_batches(
        x.data.train, framing, c.data, c.seed, start, **batches.sent(x.mesh)
    )


def _told(image: Annotated) -> bytes:
    name = image.name.encode(errors="replace")
    return name + image.boxes.tobytes() + image.classes.tobytes()
