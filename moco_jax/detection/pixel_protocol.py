"""The experiment of `protocol='segmentation'`: label maps and a segmenter, in the one loop."""

from functools import partial

import jax
from ml_collections import ConfigDict

from moco_jax.cost.absent import Size
from moco_jax.data.prefetch import Prefetcher
from moco_jax.detection import dense_protocol, numbered, pixel_task
from moco_jax.detection.architecture import of_resnet, renamed
from moco_jax.detection.batches import entries_of, sent
from moco_jax.detection.cropping import Cropping, check_canvas
from moco_jax.detection.dense_protocol import checked, opened
from moco_jax.detection.measured_pixels import evaluation
from moco_jax.detection.pixel_batches import blank, train_pixels
from moco_jax.detection.segmented import Segmented, SegmentedSplits, open_segmented
from moco_jax.errors import InputError
from moco_jax.training.experiment import Experiment
from moco_jax.training.own import Own

_PLAIN = "fpn"  # the detector whose backbone is a whole ResNet by its own names, as here


def build(config: ConfigDict) -> Experiment:
    """Builds data, segmenter and optimizer; what is wrong in the config shows here.

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
      InputError: values do not fit each other, or the size is not known.
    """
    dense_protocol.check_fixed(config)
    return assembled(config, mesh, numbered.segmented(config, size))


def assembled(config: ConfigDict, mesh: jax.sharding.Mesh, data: SegmentedSplits) -> Experiment:
    """The experiment of a config whose options are in their ranges, and of images that are open.

    Args:
      config: the options.
      mesh: over the devices.
      data: with a test part.

    Raises:
      InputError: values do not fit each other, the data or the devices.
    """
    s, train = config.segmentation, data.train
    cropping = Cropping(tuple(s.crop), tuple(s.scales), s.mirrored)
    check_canvas(tuple(s.canvas), data.test)
    made = pixel_task.make(config, len(train.class_names))
    x = dense_protocol.composed(config, mesh, data, made, _told)
    own = Own(
        batches=partial(_train_batches, x, cropping),
        entries=entries_of(blank(cropping.crop), config.data.batch_size),
        renamed=partial(renamed, _PLAIN),
        taken=of_resnet(_PLAIN),
        evaluation=evaluation(x),
    )
    return x._replace(own=own)


def _data(config: ConfigDict) -> SegmentedSplits:
    """What is trained on, and the test images: of `evals.source`, or the source's own.

    Raises:
      InputError: there are none, or they have other classes.
    """
    train, test = opened(config, open_segmented)
    if test.class_names != train.class_names:
        raise InputError(f"{test.name} has other classes than {train.name}: "
                         f"{test.class_names}, {train.class_names}")  # fmt: skip
    return SegmentedSplits(train, test)


def _train_batches(x: Experiment, cropping: Cropping, start: int) -> Prefetcher:
    c = x.config
    return train_pixels(x.data.train, cropping, c.data, c.seed, start, **sent(x.mesh))


def _told(image: Segmented) -> bytes:
    return repr((image.name, image.height, image.width)).encode(errors="replace")
