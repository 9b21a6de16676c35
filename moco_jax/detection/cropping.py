"""An image and its label map, scaled and cropped to train on, or whole to be tested.

H, W height and width of the crop or canvas
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image

from moco_jax.data import host_crop
from moco_jax.detection.label_maps import IGNORED
from moco_jax.detection.segmented import SegmentedSet
from moco_jax.errors import InputError

STRIDE = 16  # pixels between cells of the network's map


@dataclasses.dataclass(frozen=True)
class Cropping:
    """What images are trained on.

    Attributes:
      crop: H, W; each is 16 times a number, and 1.
      scales: range of the factor that an image is scaled by, each as likely.
      mirrored: share of the images that are mirrored.
    """

    crop: tuple[int, int]
    scales: tuple[float, float] = (0.5, 2.0)
    mirrored: float = 0.5

    def __post_init__(self) -> None:
        check_sides(self.crop)
        if len(self.scales) != 2 or not 0 < self.scales[0] <= self.scales[1]:
            raise InputError(f"scales={self.scales}: expected two factors above 0, in order")
        if not 0 <= self.mirrored <= 1:
            raise InputError(f"mirrored={self.mirrored}: expected 0 to 1")


class Drawn(NamedTuple):
    """What chance says of an image.

    Attributes:
      scale: factor.
      top: share of the rows that the crop leaves out, which are above it.
      left: share of the columns.
      mirror: whether it is mirrored.
    """

    scale: float
    top: float
    left: float
    mirror: bool


def check_sides(sides: tuple[int, ...]) -> None:
    """Raises InputError where a side is not 16 times a number and 1, at least 17.

    With such a side the first and the last cell are at the first and the last pixel.
    """
    if len(sides) != 2 or any(side % STRIDE != 1 or side <= STRIDE for side in sides):
        near = tuple(max(round((side - 1) / STRIDE), 1) * STRIDE + 1 for side in sides)
        raise InputError(f"images of {sides} pixels: expected two sides of {STRIDE} times a "
                         f"number, and 1; nearest: {near}")  # fmt: skip


def check_canvas(canvas: tuple[int, int], data: SegmentedSet) -> None:
    """Raises InputError where a side is none for the network, or an image is larger.

    Args:
      canvas: H, W.
      data: whose images are to fit.
    """
    check_sides(canvas)
    for side, all_sides in zip(canvas, zip(*((i.height, i.width) for i in data.images))):
        if side < (most := max(all_sides)):
            name = data.images[all_sides.index(most)].name
            near = -(-(most - 1) // STRIDE) * STRIDE + 1
            raise InputError(f"a canvas of {canvas} pixels: {name} has a side of {most}; expected "
                             f"at least {near}")  # fmt: skip


def draw(cropping: Cropping, seed: int, epoch: int, index: int) -> Drawn:
    """What chance says: a pure function of `cropping`, `seed`, `epoch` and the image's `index`."""
    scale, top, left, mirror = host_crop.generator(seed, epoch, index).random(4).tolist()
    low, high = cropping.scales
    return Drawn(low + (high - low) * scale, top, left, mirror < cropping.mirrored)


def cropped(
    pixels: np.ndarray, labels: np.ndarray, cropping: Cropping, drawn: Drawn
) -> dict[str, np.ndarray]:
    """A part of an image that was scaled: by Pillow's bilinear filter, labels by the nearest.

    Args:
      pixels: uint8 (h, w, 3).
      labels: uint8 (h, w).
      cropping: what is wanted.
      drawn: the image's chance.

    Returns:
      As `onto_canvas`, of the crop's size.
    """
    height, width = (max(int(side * drawn.scale + 0.5), 1) for side in labels.shape)
    rows, low, high = _span(len(labels), height, cropping.crop[0], drawn.top)
    columns, left, right = _span(labels.shape[1], width, cropping.crop[1], drawn.left)
    size, box = (len(columns), len(rows)), (left, low, right, high)
    # Of the whole image only the part that is wanted is scaled: the same, and sooner.
    part = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box)
    turn = slice(None, None, -1) if drawn.mirror else slice(None)
    own = labels[rows[:, None], columns]
    return onto_canvas(np.asarray(part)[:, turn], own[:, turn], cropping.crop)


def _span(whole: int, scaled: int, most: int, share: float) -> tuple[np.ndarray, float, float]:
    """Along one side, the nearest pixel for each that is wanted, and the ends of the part."""
    count = min(scaled, most)
    first = int(share * (scaled - count + 1))
    ends = np.array([first, first + count]) * whole / scaled
    nearest = (2 * (first + np.arange(count)) + 1) * whole // (2 * scaled)
    return nearest, float(ends[0]), min(float(ends[1]), float(whole))


def onto_canvas(
    pixels: np.ndarray, labels: np.ndarray, canvas: tuple[int, int]
) -> dict[str, np.ndarray]:
    """An image and its label map at the upper left of a canvas that has room for them.

    Args:
      pixels: uint8 (h, w, 3).
      labels: uint8 (h, w).
      canvas: H, W.

    Returns:
      `image` uint8 (H, W, 3), 0 on padding; `labels` uint8 (H, W), 255 there; `size` int32 (2,),
      h and w.
    """
    height, width = labels.shape
    image, classes = np.zeros((*canvas, 3), np.uint8), np.full(canvas, IGNORED, np.uint8)
    image[:height, :width], classes[:height, :width] = pixels, labels
    return {"image": image, "labels": classes, "size": np.array([height, width], np.int32)}
