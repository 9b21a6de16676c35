"""Images with annotated objects: what readers give, and what input and evaluation take.

N images, n objects of one of them, K keypoints of an object, H height, W width of an image

Coordinates are continuous, in pixels of the whole image: a box from 0 to W covers all of its
width, and the centre of the first pixel is at 0.5.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from moco_jax.data import listing, summary
from moco_jax.data.summary import Understood
from moco_jax.detection.corners import Account
from moco_jax.detection.image_files import ImageSet, read_pixels
from moco_jax.detection.masks import Shape
from moco_jax.detection.opening import open_by
from moco_jax.errors import InputError

log = logging.getLogger(__name__)

# Named, not imported: what one of them needs is loaded only when it is asked for.
OPENERS = {
    "coco:ANNOTATIONS.json:IMAGES": "moco_jax.detection.coco:open_coco",
    "tfds:NAME": "moco_jax.detection.recorded:open_recorded",
    "voc:PATH": "moco_jax.detection.voc:open_voc",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Annotated:
    """An image and its objects.

    Attributes:
      path: of the image's file; of a record the name of the file that it was made from.
      name: what logs and errors call it.
      number: its id in COCO's file; else its place in the set.
      height: H.
      width: W.
      boxes: float32 (n, 4), x1 y1 x2 y2, within the image and of some area.
      classes: int32 (n,).
      difficult: bool (n,), of VOC: need not be found.
      crowd: bool (n,), of COCO: several objects in one box, no example for training.
      ids: int64 (n,), of COCO's annotations; else 0 to n - 1.
      shapes: n outlines, each None where there is none; () where the set has none.
      keypoints: float32 (n, K, 3), x, y and COCO's visibility (0 not labelled, 1 hidden, 2 seen).
    """

    path: str
    name: str
    number: int
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    ids: np.ndarray
    shapes: tuple[Shape | None, ...]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def pixels(self, max_pixels: int) -> np.ndarray:
        """The image, uint8 (H, W, 3); EXIF's orientation is ignored, as everywhere here.

        Raises:
          BadImage: it cannot be read, or has another size than its annotation says.
          StorageError: the machine is to blame, and remains so.
        """
        read = functools.partial(listing.read_again, self.path, self.name)
        return read_pixels(read, self.name, (self.height, self.width), max_pixels)


def nothing(keypoints: int) -> Annotated:
    """An image of one pixel without objects, and without a file.

    Args:
      keypoints: K that an object would have.
    """
    no, none = np.zeros(0, np.int32), np.zeros(0, bool)
    boxes, points = np.zeros((0, 4), np.float32), np.zeros((0, keypoints, 3), np.float32)
    return Annotated("", "", -1, 1, 1, boxes, no, none, none, no, (), points)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedSet(ImageSet):
    """Annotated images of one split.

    Attributes:
      name: what logs and errors call the set.
      images: N of them.
      class_names: of the classes' numbers.
      category_ids: the numbers that COCO has for the classes; () of sets of VOC's form.
      keypoint_names: K of them.
      content: gives the annotations as COCO's file has them; None of sets of VOC's form.
      understood: what is said of it at the start.
    """

    category_ids: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    content: Callable[[], dict[str, Any]] | None = None
    understood: Understood = dataclasses.field(default_factory=Understood)

    def for_training(self) -> Self:
        """Without crowds, and without images on which nothing else is; detectron2's choice.

        Raises:
          InputError: nothing is left.
        """
        images = tuple(_take(image, ~image.crowd) for image in self.images)
        images = tuple(image for image in images if len(image))
        if not images:
            raise InputError(f"{self.name}: none of {len(self)} images has an object to learn from")
        if fewer := len(self) - len(images):
            log.info("%s: %d images without an object are not trained on", self.name, fewer)
        return dataclasses.replace(self, images=images)

    def mirrored_keypoints(self) -> np.ndarray:
        """Which keypoint each becomes in a mirror, int64 (K,): left_eye is right_eye and so on."""
        names = list(self.keypoint_names)
        return np.array([_other_side(names, i) for i in range(len(names))], np.int64)


def _take(image: Annotated, which: np.ndarray) -> Annotated:
    """Some of the objects."""
    if which.all():
        return image
    columns = ("boxes", "classes", "difficult", "crowd", "ids", "keypoints")
    shapes = tuple(shape for shape, yes in zip(image.shapes, which.tolist()) if yes)
    taken = {name: getattr(image, name)[which] for name in columns}
    return dataclasses.replace(image, shapes=shapes, **taken)


def _other_side(names: list[str], i: int) -> int:
    sides = {"left": "right", "right": "left"}
    other = re.sub("left|right", lambda found: sides[found[0]], names[i])
    if other not in names:
        raise InputError(f"keypoint {names[i]!r} has no {other!r}, which it becomes in a mirror")
    return names.index(other)


def understood_of(
    place: str, images: Sequence[Annotated], names: Sequence[str], labels: str, account: Account
) -> Understood:
    """What is said of a set at the start.

    Args:
      place: the set's name.
      images: all that are in it.
      names: of the classes' numbers.
      labels: where the classes come from.
      account: what was left out, and what was mended.
    """
    numbers = np.concatenate([image.classes for image in images] or [np.zeros(0, np.int32)])
    crowds = sum(int(image.crowd.sum()) for image in images)
    mended = (f"mended: {account.mended}",) if account.mended else ()
    return Understood(
        place=place,
        images=len(images),
        kinds=summary.kinds_of(image.path for image in images),
        labels=labels,
        unlabelled=sum(not len(image) for image in images),
        classes=dict(zip(names, np.bincount(numbers, minlength=len(names)).tolist())),
        left_out=account.left_out,
        notes=(*mended, f"{crowds:,} crowds, not trained on") if crowds else mended,
    )


class AnnotatedSplits(NamedTuple):
    """The parts of a data set; `test` is None where there is none."""

    train: AnnotatedSet
    test: AnnotatedSet | None


def open_annotated(spec: str) -> AnnotatedSplits:
    """Opens annotated images, and says in the log what was understood of them.

    Args:
      spec: `voc:PATH`, several joined by a comma (`voc:VOC2007,VOC2012`);
        `coco:ANNOTATIONS.json:IMAGES`, whose one split is called `train` here; or `tfds:NAME`,
        also joined (`tfds:voc/2007,voc/2012`).

    Raises:
      InputError: for an unknown kind, or annotations that are not as they should be.
      MissingError: for a path that does not exist.
      StorageError: files cannot be read, again and again.
    """
    return open_by("detection's data", spec, OPENERS)
