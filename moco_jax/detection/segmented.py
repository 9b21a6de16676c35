"""Images with a class for every pixel: what readers give, and what input and evaluation take.

N images, H height, W width of one of them, K classes
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moco_jax.data import decoding, listing, pipeline, summary
from moco_jax.data.patience import for_each
from moco_jax.data.summary import LeftOut, Understood
from moco_jax.detection.image_files import MAX_PIXELS, ImageSet, read_pixels, size_of
from moco_jax.detection.label_maps import Code, read_labels
from moco_jax.detection.opening import open_by
from moco_jax.errors import BadImage, InputError

# Named, not imported: see annotated.OPENERS.
OPENERS = {
    "cityscapes:PATH": "moco_jax.detection.cityscapes:open_cityscapes",
    "voc:PATH": "moco_jax.detection.voc_pixels:open_voc_pixels",
}
_READERS = 16  # files at a time: on a network, reading is waiting
_PROBES = 16  # label maps that are read as a whole at the start

NO_LABELS, NO_IMAGE = "images without a label map", "label maps without an image"
UNREADABLE, OTHER_SIZE = "images that cannot be read", "label maps of another size"
NO_NUMBERS = "label maps that are no PNG of numbers (a palette, or 8 bits of gray)"


@dataclasses.dataclass(frozen=True, eq=False)
class Segmented:
    """An image and its label map.

    Attributes:
      path: of the image's file.
      name: what logs and errors call it.
      labels_path: of the label map.
      code: of its numbers.
      height: H.
      width: W.
    """

    path: str
    name: str
    labels_path: str
    code: Code
    height: int
    width: int

    def pixels(self, max_pixels: int) -> np.ndarray:
        """The image, uint8 (H, W, 3); errors of `read_pixels`."""
        read = functools.partial(listing.read_again, self.path, self.name)
        return read_pixels(read, self.name, (self.height, self.width), max_pixels)

    def labels(self, max_pixels: int) -> np.ndarray:
        """The classes of its pixels, uint8 (H, W), 255 where there is none.

        Raises:
          BadImage: from `read_labels`, with the image's name.
          StorageError: the machine is to blame, and remains so.
        """
        try:
            size = self.height, self.width
            return read_labels(self.labels_path, size, self.code, max_pixels)
        except BadImage as error:
            raise BadImage(f"{self.name}: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedSet(ImageSet):
    """Images of one split with their label maps.

    Attributes:
      name: what logs and errors call the set.
      images: N of them.
      class_names: K.
      understood: what is said of it at the start.
    """

    understood: Understood = dataclasses.field(default_factory=Understood)


class SegmentedSplits(NamedTuple):
    """The parts of a data set; `test` is None where there is none."""

    train: SegmentedSet
    test: SegmentedSet | None


class Labels(NamedTuple):
    """Where a label map lies, and the code of its numbers."""

    path: str
    code: Code


def make_set(
    name: str,
    keys: Sequence[str],
    images: Mapping[str, str],
    labels: Mapping[str, Labels],
    class_names: tuple[str, ...],
    notes: tuple[str, ...] = (),
    left_out: LeftOut | None = None,
) -> SegmentedSet:
    """The images of one split that have a label map of their size; the others are counted.

    Args:
      name: what logs and errors call the set.
      keys: of the images that are wanted.
      images: key -> path of an image.
      labels: key -> its label map.
      class_names: K.
      notes: what was decided.
      left_out: what is left out already.

    Raises:
      StorageError: a file cannot be read, again and again.
    """
    left_out = LeftOut(left_out or {})
    there = []
    for key in keys:
        reason = NO_IMAGE if key not in images else NO_LABELS if key not in labels else None
        left_out.note(reason, key) if reason else there.append(key)
    found = for_each(lambda key: _read(images[key], labels[key]), there, _READERS)
    used = []
    for key, one in zip(there, found):
        left_out.note(one, key) if isinstance(one, str) else used.append(one)
    understood = Understood(
        place=name,
        images=len(used),
        kinds=summary.kinds_of(image.path for image in used),
        labels=f"label maps of {len(class_names)} classes",
        left_out=left_out,
        notes=notes,
    )
    return SegmentedSet(name, tuple(used), class_names, understood)


def _read(path: str, labels: Labels) -> Segmented | str:
    """An image by the first bytes of its files, or why it is left out."""
    size = size_of(path)
    if size is None:
        return UNREADABLE
    try:
        labelled = decoding.check_numbers(listing.read_again(labels.path), MAX_PIXELS)
    except BadImage:
        return NO_NUMBERS
    if labelled != size:
        return OTHER_SIZE
    return Segmented(path, os.path.basename(path), *labels, *size)


def checked(data: SegmentedSet) -> SegmentedSet:
    """The set itself.

    Raises:
      InputError: nothing is in it, or none of 16 label maps holds only numbers of classes.
    """
    if not data.images:
        raise InputError(f"{data.name}: no image with a label map is left; "
                         f"{LeftOut(data.understood.left_out)}")  # fmt: skip
    errors = []
    for i in pipeline.evenly(len(data), _PROBES).tolist():
        try:
            data.images[i].labels(MAX_PIXELS)
            return data
        except BadImage as error:
            errors.append(str(error))
    raise InputError(f"{data.name}: none of {len(errors)} label maps can be used: {errors[0]}")


def open_segmented(spec: str) -> SegmentedSplits:
    """Opens images with label maps, and says in the log what was understood of them.

    Args:
      spec: `voc:PATH`, in VOC's layout, or `cityscapes:PATH`, in that of Cityscapes.

    Raises:
      InputError: for an unknown kind, or files that are not as they should be.
      MissingError: for a path that does not exist.
      StorageError: files cannot be read, again and again.
    """
    splits = open_by("segmentation's data", spec, OPENERS)
    for part in splits:
        if part is not None:
            checked(part)
    return splits
