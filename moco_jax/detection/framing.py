"""One annotated image onto a canvas of fixed size: resized, perhaps mirrored, padded.

H, W height and width of the canvas, M boxes at most, n objects of an image, K keypoints, S side of
a box's bits
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from moco_jax.data import host_crop
from moco_jax.detection import masks
from moco_jax.detection.annotated import Annotated, AnnotatedSet
from moco_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Framing:
    """How images come onto canvases.

    Attributes:
      canvas: H, W. An image that would not fit is made so much smaller that it does.
      sides: pixels of the short side, of which each is drawn as often; one: always that.
      longest: pixels of the long side at most.
      mirrored: share of the images that are mirrored.
      boxes: M.
      bits: whether objects' outlines are wanted, as masks.BOX_SIDE bits along either side.
      others: further canvases, each for the images that are largest on it (`best_canvas`).
    """

    canvas: tuple[int, int]
    sides: tuple[int, ...]
    longest: int = 1333
    mirrored: float = 0.0
    boxes: int = 100
    bits: bool = False
    others: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        numbers = (*sum(self.canvases, ()), *self.sides, self.longest, self.boxes)
        if {len(one) for one in self.canvases} != {2} or not self.sides or min(numbers) < 1:
            raise InputError(f"{self}: expected two sides of a canvas, short sides, all above 0")
        if not 0 <= self.mirrored <= 1:
            raise InputError(f"mirrored={self.mirrored}: expected 0 to 1")

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """All of them."""
        return (self.canvas, *self.others)

    def on(self, number: int) -> Self:
        """The same with one canvas alone.

        Args:
          number: which of `canvases`.
        """
        return dataclasses.replace(self, canvas=self.canvases[number], others=())

    def checked(self, data: AnnotatedSet) -> Self:
        """Itself, where all objects of each image of the set have room.

        Raises:
          InputError: an image has more; or a keypoint has no other side to become in a mirror.
        """
        most = max(data.images, key=len)
        if len(most) > self.boxes:
            raise InputError(f"boxes={self.boxes}: {most.name} has {len(most)}; expected at least "
                             "as many")  # fmt: skip
        if self.mirrored:
            data.mirrored_keypoints()
        return self


class Drawn(NamedTuple):
    """What chance says of an image: its short side in pixels, and whether it is mirrored."""

    side: int
    mirror: bool


def draw(framing: Framing, seed: int, epoch: int, index: int) -> Drawn:
    """What chance says: a pure function of `framing`, `seed`, `epoch` and the image's `index`."""
    side, mirror = host_crop.generator(seed, epoch, index).random(2).tolist()
    return Drawn(framing.sides[int(side * len(framing.sides))], mirror < framing.mirrored)


def canvases_of(options: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Height and width of each canvas.

    Args:
      options: `config.detection`.
    """
    return tuple(tuple(one) for one in (options.canvas, *options.more_canvases))


def framing_of_test(options: ConfigDict, boxes: int = 100) -> Framing:
    """How images come onto the canvas in a test.

    Args:
      options: `config.detection`.
      boxes: M.
    """
    canvas, *others = canvases_of(options)
    sides = (options.test_side,)
    return Framing(canvas, sides, options.longest, boxes=boxes, others=tuple(others))


def resized_shape(framing: Framing, height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image on the canvas.

    As detectron2's ResizeShortestEdge: the short side as wanted unless the long one is too long
    then; and the canvas bounds both.

    Args:
      framing: with the canvas and the longest side.
      height: of the whole image.
      width: of the whole image.
      side: that is drawn for the short one.
    """
    (down, across), scale = framing.canvas, _scale(framing, framing.canvas, height, width, side)
    fit = lambda size, most: min(max(int(size * scale + 0.5), 1), most)  # noqa: E731
    return fit(height, down), fit(width, across)


def _scale(framing: Framing, canvas: tuple[int, int], height: int, width: int, side: int) -> float:
    longest, (down, across) = max(height, width), canvas
    return min(side / min(height, width), framing.longest / longest, down / height, across / width)


def best_canvas(framing: Framing, height: int, width: int) -> int:
    """The canvas on which an image is largest; of such ones the smallest, and the first.

    Args:
      framing: with the canvases; of its short sides the largest counts.
      height: of the whole image.
      width: of the whole image.

    Returns:
      Which of `framing.canvases`.
    """
    canvases, side = framing.canvases, max(framing.sides)

    def rank(number: int) -> tuple[float, int, int]:
        canvas = canvases[number]
        return -_scale(framing, canvas, height, width, side), canvas[0] * canvas[1], number

    return min(range(len(canvases)), key=rank)


def onto_canvas(
    pixels: np.ndarray, image: Annotated, framing: Framing, drawn: Drawn, mirrored: Sequence[int]
) -> dict[str, np.ndarray]:
    """An image and its objects on a canvas, at its upper left.

    Args:
      pixels: uint8, of the image's size, 3 channels.
      image: with at most M objects.
      framing: what is wanted; its first canvas is taken.
      drawn: the image's chance.
      mirrored: of the set: which keypoint each becomes in a mirror.

    Returns:
      `image` uint8 (H, W, 3), 0 on padding; `size` int32 (2,), height and width of the image on
      it; `whole` int32 (2,), of the image as it was; `boxes` float32 (M, 4), on the canvas;
      `classes` int32 (M,), -1 on padding; `there` bool (M,), False on padding; `keypoints` float32
      (M, K, 3); with `framing.bits` also `bits` bool (M, S, S).
    """
    height, width = resized_shape(framing, image.height, image.width, drawn.side)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    turn = slice(None, None, -1) if drawn.mirror else slice(None)
    canvas = np.zeros((*framing.canvas, 3), np.uint8)
    canvas[:height, :width] = np.asarray(small)[:, turn]
    scale = np.array([width / image.width, height / image.height], np.float32)
    boxes, points = image.boxes * np.tile(scale, 2), image.keypoints.copy()
    points[..., :2] *= scale
    if drawn.mirror:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        points = points[:, np.asarray(mirrored, np.int64)]
        points[..., 0] = np.where(points[..., 2] > 0, width - points[..., 0], 0)
    out = {
        "image": canvas,
        "size": np.array([height, width], np.int32),
        "whole": np.array([image.height, image.width], np.int32),
        "boxes": _padded(boxes, framing.boxes, 0),
        "classes": _padded(image.classes, framing.boxes, -1),
        "there": np.arange(framing.boxes) < len(image),
        "keypoints": _padded(points, framing.boxes, 0),
    }
    if framing.bits:
        bits = masks.all_in_boxes(image.shapes, image.boxes)[..., turn]
        out["bits"] = _padded(bits, framing.boxes, 0)
    return out


def _padded(rows: np.ndarray, length: int, value: int) -> np.ndarray:
    out = np.full((length, *rows.shape[1:]), value, rows.dtype)
    out[: len(rows)] = rows
    return out


def back(boxes: np.ndarray, size: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Boxes on a canvas, (d, 4), in the whole image's pixels, clipped to it: not mirrored ones.

    Args:
      boxes: float32 (d, 4).
      size: int32 (2,), of `onto_canvas`.
      whole: int32 (2,), as well.
    """
    scale = np.tile((whole / size)[::-1], 2).astype(np.float32)
    border = np.tile(whole[::-1], 2).astype(np.float32)
    return np.clip(boxes * scale, 0, border)
