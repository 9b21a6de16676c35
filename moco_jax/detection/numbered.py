"""Data sets of which only the numbers are known, for a plan: no image of them can be read."""

import os

from ml_collections import ConfigDict

from moco_jax.cost.absent import Size, known
from moco_jax.detection.annotated import AnnotatedSet, AnnotatedSplits, nothing
from moco_jax.detection.label_maps import Code
from moco_jax.detection.segmented import Segmented, SegmentedSet, SegmentedSplits
from moco_jax.errors import InputError

# Images that are trained on, with an object each, and classes; by the names that files have.
ANNOTATED = {
    "coco:instances_train2017.json": Size(117_266, 80),
    "coco:person_keypoints_train2017.json": Size(64_115, 1),
    "voc:VOC2007,VOC2012": Size(16_551, 20),
}
SEGMENTED = {"voc:VOC2012": Size(10_582, 21), "cityscapes:cityscapes": Size(2975, 19)}


def annotated(config: ConfigDict, size: Size | None, keypoints: int) -> AnnotatedSplits:
    """Annotated images that are not there, which test as well.

    Args:
      config: of the run.
      size: of the set; None: by its name.
      keypoints: of an object.

    Raises:
      InputError: the size is not known, or has no meaning here.
    """
    size = _size(config, size, ANNOTATED)
    images, points = (nothing(keypoints),) * size.images, _numbers(keypoints)
    part = AnnotatedSet(config.data.source, images, _numbers(size.classes), keypoint_names=points)
    return AnnotatedSplits(part, part)


def segmented(config: ConfigDict, size: Size | None) -> SegmentedSplits:
    """Images with label maps that are not there, which test as well.

    Args:
      config: of the run.
      size: of the set; None: by its name.

    Raises:
      InputError: the size is not known, or has no meaning here.
    """
    size = _size(config, size, SEGMENTED)
    images = (Segmented("", "", "", Code({}), 1, 1),) * size.images
    part = SegmentedSet(config.data.source, images, _numbers(size.classes))
    return SegmentedSplits(part, part)


def _name(source: str) -> str:
    """A source by its kind and the names of its files or folders alone."""
    kind, _, paths = source.partition(":")
    paths = paths.partition(":")[0].split(",")
    return f"{kind}:{','.join(os.path.basename(path.rstrip('/')) for path in paths)}"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _size(config: ConfigDict, size: Size | None, sizes: dict[str, Size]) -> Size:
    source = config.data.source
    size = size or known(source, sizes, _name(source))
    if size.classes < 1:
        raise InputError(f"--classes={size.classes}: expected at least 1 with "
                         f"protocol={config.protocol!r}")  # fmt: skip
    if size.shape:
        raise InputError(f"--shape={size.shape}: expected none with protocol={config.protocol!r}, "
                         "whose canvas is an option")  # fmt: skip
    return size
