"""From the frame of a box back to the image: masks and keypoints, on the host.

n detections of an image; M, P cells of a side of a box; H, W height and width of the image; K
keypoints.

Both are detectron2's. A mask is resized bilinearly to the box as it lies, fractions of a pixel
included, and is nothing beyond it (torchvision rounds the box to whole pixels first). A keypoint
is where the heat map is largest, once it is resized bicubically to the pixels of the box.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco_jax.detection import masks

HALF = 0.5  # probability from which on a pixel is the object's
_SPECK = 1e-6  # pixels: sides that rounding makes zero
_SHARPNESS = -0.75  # of the bicubic kernel: PyTorch's


def run_lengths(
    probabilities: np.ndarray, boxes: np.ndarray, whole: Sequence[int]
) -> tuple[dict[str, Any], ...]:
    """COCO's run lengths of n masks.

    Args:
      probabilities: float32 (n, M, M).
      boxes: float32 (n, 4) in the image's pixels.
      whole: H, W.

    Raises:
      InputError: pycocotools is missing.
    """
    pairs = zip(probabilities, boxes, strict=True)
    return tuple(masks.encode(paste(mask, box, *map(int, whole))) for mask, box in pairs)


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The bits of an image that a mask sets.

    Args:
      mask: float32 (M, M), probabilities in the cells of the box.
      box: float32 (4,), of some area.
      height: H.
      width: W.

    Returns:
      bool (H, W): the probability at the pixel's centre is HALF or more.
    """
    out, (x1, y1, x2, y2) = np.zeros((height, width), bool), box.astype(np.float64).tolist()
    rows, down = _shares(y1, y2, len(mask), height)
    columns, across = _shares(x1, x2, mask.shape[1], width)
    out[rows, columns] = down @ mask.astype(np.float64) @ across.T >= HALF
    return out


def _shares(start: float, end: float, cells: int, length: int) -> tuple[slice, np.ndarray]:
    """Which pixels of a side lie in a box, and the share of each cell in each of them."""
    first, last = max(math.floor(start), 0), min(math.ceil(end), length)
    centres = np.arange(first, max(last, first)) + 0.5
    place = (centres - start) / max(end - start, _SPECK) * cells - 0.5
    return slice(first, max(last, first)), np.maximum(1 - abs(place[:, None] - np.arange(cells)), 0)


def keypoints(heat: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Where the keypoints of n boxes are, and how sure that is.

    Args:
      heat: float32 (n, P, P, K) logits.
      boxes: float32 (n, 4) in pixels of the canvas, for which the detector made them.

    Returns:
      float32 (n, K, 3): x and y in the same pixels, and detectron2's score: the exponential of the
      largest logit over the sum of those of the cells, which may so pass 1.
    """
    out = np.zeros((len(heat), heat.shape[-1], 3), np.float32)
    for i, (maps, box) in enumerate(zip(heat.astype(np.float64), boxes, strict=True)):
        out[i] = _keypoints_of_one(maps, box.astype(np.float64))
    return out


def _keypoints_of_one(maps: np.ndarray, box: np.ndarray) -> np.ndarray:
    sides = np.maximum(box[2:] - box[:2], 1)  # right, down
    pixels = np.ceil(sides).astype(int)
    across, down = (_bicubic(*pair) for pair in zip(maps.shape[1::-1], pixels.tolist()))
    out = np.zeros((maps.shape[-1], 3))
    for k in range(len(out)):
        large = down @ maps[..., k] @ across.T
        y, x = np.unravel_index(large.argmax(), large.shape)
        out[k, :2] = (np.array([x, y]) + 0.5) * (sides / pixels) + box[:2]
        out[k, 2] = 1 / np.exp(maps[..., k] - large[y, x]).sum()
    return out


def _bicubic(cells: int, pixels: int) -> np.ndarray:
    """Weights (pixels, cells) that resize a side; past the border lies the border's cell."""
    place = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    taps = np.floor(place).astype(int)[:, None] + np.arange(-1, 3)
    far = abs(place[:, None] - taps)
    a = _SHARPNESS
    near = ((a + 2) * far - (a + 3)) * far**2 + 1
    weights = np.where(far <= 1, near, a * (((far - 5) * far + 8) * far - 4))
    out = np.zeros((pixels, cells))
    np.add.at(out, (np.arange(pixels)[:, None], np.clip(taps, 0, cells - 1)), weights)
    return out
