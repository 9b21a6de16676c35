"""What the heads learn that draw within a box: masks and keypoints (arXiv:1703.06870).

B images, S samples of an image, G true boxes, P cells of a side, K classes or keypoints.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from moco_jax.detection import roi_align
from moco_jax.detection.box_loss import Samples, of_truth, own_class
from moco_jax.ops.operations import INTERPOLATION

CHUNK = 16  # masks that are cropped at once


def mask_targets(samples: Samples, truth: jax.Array, bits: jax.Array, cells: int) -> jax.Array:
    """The true mask within each sample's box, by ROIAlign with 2 x 2 samples of a cell.

    detectron2 takes as many samples of a bitmap as a cell has pixels; as there the threshold is
    the half. Beyond the true box there is nothing of the object.

    Args:
      samples: of one image, (S, ...) each.
      truth: (G, 4) the true boxes.
      bits: (G, H, W) bool, which stretch over the true box.
      cells: P.

    Returns:
      (S, P, P) bool.
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    framed = jnp.pad(bits, ((0, 0), (1, 1), (1, 1)))
    height, width = framed.shape[1:]

    def crop(box: jax.Array, index: jax.Array) -> jax.Array:
        own = truth[index].reshape(2, 2)
        side = jnp.where(own[1] > own[0], own[1] - own[0], 1)
        unit = jnp.array([width - 2, height - 2], jnp.float32) / side
        start, end = (box.reshape(2, 2) - own[:1]) * unit[None] + 1  # in pixels of `framed`
        down = roi_align.interpolation(start[1], end[1], cells, height)
        across = roi_align.interpolation(start[0], end[0], cells, width)
        mask = framed[index].astype(jnp.float32)
        with jax.named_scope(INTERPOLATION):
            return product("ph,hw,qw->pq", down, mask, across) >= 0.5

    return jax.lax.map(lambda x: crop(*x), (samples.boxes, samples.index), batch_size=CHUNK)


def mask_loss(
    logits: jax.Array, samples: Samples, classes: jax.Array, targets: jax.Array
) -> jax.Array:
    """Cross entropy of each cell of the own class's mask, mean over the foreground's cells.

    Args:
      logits: (B, S, P, P, K).
      samples: of all images, (B, S, ...) each.
      classes: (B, G) int of the true boxes.
      targets: (B, S, P, P) bool of `mask_targets`.

    Returns:
      float32 scalar; 0 without foreground.
    """
    own = own_class(samples, classes)[:, :, None, None, None]
    chosen = jnp.take_along_axis(logits, own, axis=-1)[..., 0].astype(jnp.float32)
    entropy = optax.sigmoid_binary_cross_entropy(chosen, targets.astype(jnp.float32))
    return _mean(entropy.mean((2, 3)), samples.foreground)


def keypoint_cells(boxes: jax.Array, keypoints: jax.Array, cells: int) -> jax.Array:
    """The cell of a box that each keypoint lies in (detectron2's and torchvision's rule).

    Args:
      boxes: (..., 4).
      keypoints: (..., K, 3) of x, y in pixels of the canvas, and visibility, 0 for "not labelled".
      cells: P; cells are half open, but for the right and lower border, which belong to the last.

    Returns:
      (..., K) int32 in [0, P * P), row by row; -1 outside of the box or not labelled.
    """
    start, end = boxes[..., None, :2], boxes[..., None, 2:]
    side = end - start
    scaled = (keypoints[..., :2] - start) * (cells / jnp.where(side > 0, side, 1))
    cell = jnp.where(keypoints[..., :2] == end, cells - 1, jnp.floor(scaled))
    inside = jnp.all((cell >= 0) & (cell < cells) & (side > 0), axis=-1)
    place = cell[..., 1] * cells + cell[..., 0]
    return jnp.where(inside & (keypoints[..., 2] > 0), place, -1).astype(jnp.int32)


def keypoint_loss(logits: jax.Array, samples: Samples, keypoints: jax.Array) -> jax.Array:
    """Cross entropy over the cells of a heat map, mean over the keypoints that lie in their box.

    Args:
      logits: (B, S, P, P, K).
      samples: of all images, (B, S, ...) each.
      keypoints: (B, G, K, 3) of the true boxes, see `keypoint_cells`.

    Returns:
      float32 scalar; 0 without such a keypoint.
    """
    cells = keypoint_cells(samples.boxes, of_truth(samples, keypoints), logits.shape[2])
    counts = (cells >= 0) & samples.foreground[..., None]
    maps = jnp.moveaxis(logits, -1, 2).astype(jnp.float32)
    maps = maps.reshape(*maps.shape[:3], -1)
    entropy = optax.softmax_cross_entropy_with_integer_labels(maps, jnp.maximum(cells, 0))
    return _mean(entropy, counts)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values under a mask of the same shape; 0 of none."""
    total = jnp.sum(jnp.where(mask, values, 0))
    return total / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)
