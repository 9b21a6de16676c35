"""Whole networks: what a detector computes of images, and of boxes on their maps.

B images, R boxes of an image, P cells of a side, A anchors of a cell, K classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.detection import anchors
from moco_jax.detection.box_heads import BoxHead, LastStage, Predictor
from moco_jax.detection.dense_heads import KeypointHead, MaskHead
from moco_jax.detection.proposal_head import ProposalHead
from moco_jax.detection.pyramid import Pyramid
from moco_jax.detection.roi_align import pyramid_align, roi_align
from moco_jax.models.resnet import DEPTHS, ResNet

Maps = tuple[jax.Array, ...]


class Detector(nn.Module):
    """What the two have in common: proposals of the maps, then the heads of boxes."""

    def propose(self, maps: Maps) -> tuple[list[jax.Array], list[jax.Array]]:
        """Logits and coded boxes of all anchors of each map; see `ProposalHead`."""
        return self.proposal_head(maps)

    def __call__(
        self, images: jax.Array, boxes: jax.Array, mask: jax.Array, train: bool
    ) -> dict[str, Any]:
        """All outputs for given boxes, by the names of the methods; makes the parameters.

        Args:
          images: (B, H, W, 3).
          boxes: (B, R, 4) in pixels of the canvas.
          mask: (B, R) which are boxes.
          train: see BatchNorm.
        """
        maps = self.maps(images, train)
        return {"propose": self.propose(maps)} | self.heads(maps, boxes, mask, train)


class PyramidDetector(Detector):
    """Faster, Mask or Keypoint R-CNN on a feature pyramid ("R50-FPN").

    Every BatchNorm takes its statistics of the batch over all devices, and of no padding.

    Attributes:
      classes: K, without the background.
      depth: layers of the ResNet.
      width: multiplies its channels.
      channels: of the pyramid.
      box_head: on crops of 7 x 7.
      mask_head: on crops of 14 x 14, if there are masks to learn.
      keypoint_head: on crops of 14 x 14, if there are keypoints.
      norm: BatchNorm in the pyramid; the heads have their own attribute.
      dtype: of the computation; what comes out of the heads is float32.
    """

    classes: int
    depth: int = 50
    width: float = 1.0
    channels: int = 256
    box_head: BoxHead = BoxHead()
    mask_head: MaskHead | None = None
    keypoint_head: KeypointHead | None = None
    norm: bool = True
    dtype: Any = jnp.float32

    strides = (4, 8, 16, 32, 64)  # of the maps; boxes are cropped of all but the last
    anchor_sizes = anchors.FPN_SIZES

    def setup(self) -> None:
        """Makes the parts."""
        stages, bottleneck = DEPTHS[self.depth]
        self.backbone = ResNet(stages, bottleneck, self.width, dtype=self.dtype)
        self.pyramid = Pyramid(self.channels, self.norm, dtype=self.dtype)
        self.proposal_head = ProposalHead(len(anchors.RATIOS), self.dtype)
        self.predictor = Predictor(self.classes)

    def maps(self, images: jax.Array, train: bool) -> Maps:
        """P2 to P6 of images (B, H, W, 3), whose sides are multiples of 32."""
        return self.pyramid(self.backbone(images, train, maps=True), train)

    def classify(
        self, maps: Maps, boxes: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Logits (B, R, K + 1) and coded boxes (B, R, K, 4) of boxes (B, R, 4), see `Predictor`.

        Args:
          maps: as `maps` gives them.
          boxes: in pixels of the canvas.
          mask: (B, R) which are boxes.
          train: see BatchNorm.
        """
        logits, deltas = self.predictor(
            self.box_head(self._crops(maps, boxes, 7), mask.reshape(-1), train)
        )
        return _by_image(logits, boxes), _by_image(deltas, boxes)

    def draw_masks(self, maps: Maps, boxes: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Logits (B, R, 28, 28, K) of boxes (B, R, 4); arguments as of `classify`."""
        crops = self._crops(maps, boxes, 14)
        return _by_image(self.mask_head(crops, mask.reshape(-1), train), boxes)

    def draw_keypoints(
        self, maps: Maps, boxes: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        """Logits (B, R, 56, 56, keypoints) of boxes (B, R, 4); arguments as of `classify`."""
        crops = self._crops(maps, boxes, 14)
        return _by_image(self.keypoint_head(crops, mask.reshape(-1), train), boxes)

    def heads(
        self,
        maps: Maps,
        boxes: jax.Array,
        mask: jax.Array,
        train: bool,
        drawn: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Outputs of all heads by the names of the methods.

        Args:
          maps: as of `classify`, like boxes, mask and train.
          boxes: (B, R, 4).
          mask: (B, R).
          train: see BatchNorm.
          drawn: (B, Q) in which of the first Q boxes is drawn; None: in all.
        """
        found = {"classify": self.classify(maps, boxes, mask, train)}
        drawn = mask if drawn is None else drawn
        boxes = boxes[:, : drawn.shape[1]]
        if self.mask_head:
            found["draw_masks"] = self.draw_masks(maps, boxes, drawn, train)
        if self.keypoint_head:
            found["draw_keypoints"] = self.draw_keypoints(maps, boxes, drawn, train)
        return found

    def _crops(self, maps: Maps, boxes: jax.Array, cells: int) -> jax.Array:
        """(B * R, P, P, C)."""
        return _flat(pyramid_align(maps[:-1], boxes, self.strides[:-1], cells))


class C4Detector(Detector):
    """Faster or Mask R-CNN whose head is the last stage of the ResNet ("R50-C4").

    Every BatchNorm takes its statistics of the batch over all devices, and of no padding.

    Attributes:
      classes: K, without the background.
      depth: layers of the ResNet.
      width: multiplies its channels.
      mask_head: if there are masks to learn; without convolutions of its own in MoCo's recipe.
      dtype: of the computation; what comes out of the heads is float32.
    """

    classes: int
    depth: int = 50
    width: float = 1.0
    mask_head: MaskHead | None = None
    dtype: Any = jnp.float32

    strides = (16,)  # of the map
    anchor_sizes = anchors.C4_SIZES

    def setup(self) -> None:
        """Makes the parts."""
        stages, bottleneck = DEPTHS[self.depth]
        self.backbone = ResNet(stages[:3], bottleneck, self.width, dtype=self.dtype)
        cell = len(anchors.RATIOS) * len(anchors.C4_SIZES[0])
        self.proposal_head = ProposalHead(cell, self.dtype)
        self.last_stage = LastStage(self.depth, self.width, self.dtype)
        self.predictor = Predictor(self.classes)

    def maps(self, images: jax.Array, train: bool) -> Maps:
        """C4 alone, of images (B, H, W, 3)."""
        return self.backbone(images, train, maps=True)[-1:]

    def crops(self, maps: Maps, boxes: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps (B, R, 7, 7, C) of boxes (B, R, 4) after the last stage, which all heads share.

        Args:
          maps: as `maps` gives them.
          boxes: in pixels of the canvas.
          mask: (B, R) which are boxes.
          train: see BatchNorm.
        """
        crops = _flat(roi_align(maps[0], boxes, self.strides[0], 14))
        return _by_image(self.last_stage(crops, mask.reshape(-1), train), boxes)

    def classify(self, crops: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits (B, R, K + 1) and coded boxes (B, R, K, 4) of `crops`; see `Predictor`."""
        logits, deltas = self.predictor(_flat(crops))
        return _by_image(logits, crops), _by_image(deltas, crops)

    def draw_masks(self, crops: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Logits (B, R, 14, 14, K) of `crops`, or of some of its boxes, and their mask (B, R)."""
        return _by_image(self.mask_head(_flat(crops), mask.reshape(-1), train), crops)

    def heads(
        self,
        maps: Maps,
        boxes: jax.Array,
        mask: jax.Array,
        train: bool,
        drawn: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Outputs of all heads by the names of the methods; see `PyramidDetector.heads`."""
        crops = self.crops(maps, boxes, mask, train)
        found = {"classify": self.classify(crops)}
        if self.mask_head:
            drawn = mask if drawn is None else drawn
            found["draw_masks"] = self.draw_masks(crops[:, : drawn.shape[1]], drawn, train)
        return found


def _flat(x: jax.Array) -> jax.Array:
    """(B, R, ...) as (B * R, ...)."""
    return x.reshape(-1, *x.shape[2:])


def _by_image(x: jax.Array, boxes: jax.Array) -> jax.Array:
    """(B * R, ...) as (B, R, ...), like boxes."""
    return x.reshape(*boxes.shape[:2], *x.shape[1:])
