"""Boxes, masks and keypoints drawn into an image, for people to look at.

H, W of the image; d detections, n objects
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moco_jax.detection import masks
from moco_jax.detection.annotated import Annotated
from moco_jax.detection.detections import Detections

_TINT = 0.45  # share of the colour in a mask
_GOLDEN = 0.618034  # turns of the circle of colours from one class to the next


def draw(
    pixels: np.ndarray, found: Detections, names: Sequence[str], least: float = 0.0
) -> np.ndarray:
    """The image with its detections, the surest on top: box, class and score, mask, keypoints.

    Args:
      pixels: uint8 (H, W, 3).
      found: d detections in pixels of it.
      names: of the classes.
      least: score from which on a detection is drawn.

    Returns:
      uint8 (H, W, 3).
    """
    picture = _Picture(pixels)
    for i in np.argsort(found.scores, kind="stable").tolist():
        if found.scores[i] < least:
            continue
        number = int(found.classes[i])
        if found.masks:
            picture.mask(masks.decode(found.masks[i]), number)
        picture.box(found.boxes[i], number, f"{names[number]} {found.scores[i]:.2f}")
        if found.keypoints is not None:
            picture.points(found.keypoints[i], number)
    return np.asarray(picture.image)


def draw_truth(pixels: np.ndarray, image: Annotated, names: Sequence[str]) -> np.ndarray:
    """The image with its annotations: box and class, outline, labelled keypoints.

    Args:
      pixels: uint8 (H, W, 3).
      image: with n objects.
      names: of the classes.

    Returns:
      uint8 (H, W, 3).
    """
    picture = _Picture(pixels)
    for i, number in enumerate(image.classes.tolist()):
        if image.shapes and image.shapes[i] is not None:
            picture.mask(masks.whole(image.shapes[i], image.height, image.width), number)
        picture.box(image.boxes[i], number, names[number])
        picture.points(image.keypoints[i][image.keypoints[i][:, 2] > 0], number)
    return np.asarray(picture.image)


class _Picture:
    """An image that is drawn into, with lines and letters that fit its size."""

    def __init__(self, pixels: np.ndarray):
        self.image = Image.fromarray(pixels)
        self._line = max(round(max(self.image.size) / 400), 1)
        self._font = ImageFont.load_default(size=max(max(self.image.size) / 50, 10))

    def mask(self, bits: np.ndarray, number: int) -> None:
        """Tints bits (H, W)."""
        share = Image.fromarray(np.uint8(255 * _TINT) * bits.astype(np.uint8))
        self.image.paste(Image.new("RGB", self.image.size, _colour(number)), mask=share)

    def box(self, box: np.ndarray, number: int, text: str) -> None:
        """A frame, and a text above it, or below its upper side where there is no room."""
        draw = ImageDraw.Draw(self.image)
        x1, y1, x2, y2 = box.tolist()
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=_colour(number),
                       width=self._line)  # fmt: skip
        left, top, right, bottom = draw.textbbox((0, 0), text, font=self._font)
        x = max(min(x1, self.image.width - (right - left)), 0)
        y = y1 - (bottom - top) - 2 * self._line
        y = y1 if y < 0 else y
        place = (x, y, x + right - left + 2, y + bottom - top + 2)
        draw.rectangle(place, fill=_colour(number))
        draw.text((x + 1 - left, y + 1 - top), text, fill="white", font=self._font)

    def points(self, points: np.ndarray, number: int) -> None:
        """Dots at (K, 3)."""
        draw, r = ImageDraw.Draw(self.image), 1.5 * self._line
        for x, y, _ in points.tolist():
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_colour(number), outline="white")


def _colour(number: int) -> tuple[int, int, int]:
    """Of a class: dark enough for white letters."""
    rgb = colorsys.hsv_to_rgb((0.6 + number * _GOLDEN) % 1, 0.85, 0.65)
    return tuple(round(255 * part) for part in rgb)
