"""A whole detector on images: from pixels to detections, as Mask R-CNN's evaluation goes.

B images, D final detections of an image, M and P cells of a side, K keypoints.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax import mesh as meshes
from moco_jax.data import transfer
from moco_jax.detection import anchors, final, pasting
from moco_jax.detection.dense_task import variables_of
from moco_jax.detection.detections import Detections
from moco_jax.detection.detector import Detector
from moco_jax.detection.final import Final
from moco_jax.detection.proposals import propose

BEFORE, AFTER = 1000, 1000  # proposals ahead of and after suppression: detectron2's on a pyramid


class Predicted(NamedTuple):
    """What a detector says of B images.

    Attributes:
      final: the detections, (B, D, ...) each.
      masks: float32 (B, D, M, M), the probability of the object in each cell of its box; None of
        a detector without masks.
      heat: float32 (B, D, P, P, K), logits of the keypoints in each cell; None without.
    """

    final: Final
    masks: jax.Array | None
    heat: jax.Array | None


def predict(
    net: Detector,
    variables: dict[str, Any],
    images: jax.Array,
    sizes: jax.Array,
    before: int = BEFORE,
    after: int = AFTER,
    score: float = final.SCORE,
) -> Predicted:
    """Detections of images, their masks and keypoints; to be compiled, see below.

    Masks and keypoints are drawn in the final boxes, not in the proposals. All heads are called
    for both; the compiler leaves out what of it is not used.

    Args:
      net: of K classes.
      variables: its parameters and statistics.
      images: (B, H, W, 3) as in training, at the upper left of their canvas.
      sizes: int32 (B, 2), height and width of each image on its canvas.
      before: proposals of each map ahead of suppression.
      after: proposals of an image.
      score: below and at it there is no detection.
    """
    maps = net.apply(variables, images, False, method=net.maps)
    logits, deltas = net.apply(variables, maps, method=net.propose)
    own = anchors.pyramid_anchors([x.shape[1:3] for x in maps], net.strides, net.anchor_sizes)
    boxes, _, mask = jax.vmap(lambda *one: propose(*one[:2], own, one[2], before, after))(
        logits, deltas, sizes
    )
    classes, coded = net.apply(variables, maps, boxes, mask, False, method=net.heads)["classify"]
    found = jax.vmap(lambda *one: final.final_detections(*one, score=score))(
        classes, coded, boxes, mask, sizes
    )
    drawn = net.apply(variables, maps, found.boxes, found.mask, False, method=net.heads)
    return Predicted(found, _own_masks(drawn, found.classes), drawn.get("draw_keypoints"))


def make_detect(
    net: Detector,
    mesh: jax.sharding.Mesh,
    normalize: Callable[[dict[str, jax.Array], int], jax.Array],
    proposals: tuple[int, int],
) -> Callable[[Any, Any, Iterable[Mapping[str, Any]]], Iterator[tuple[int, Detections]]]:
    """The function from parameters, statistics and evaluation batches to each image's detections.

    Args:
      net: the network.
      mesh: on which parameters and batches lie.
      normalize: as `Experiment.augment`.
      proposals: `before` and `after` of `predict`.
    """

    def run(params: Any, stats: Any, given: dict[str, jax.Array]) -> Predicted:
        variables = variables_of(params, stats)
        return predict(net, variables, normalize(given, 0), given["size"], *proposals)

    run = jax.jit(meshes.inside(mesh, run))

    def detect(params: Any, stats: Any, stream: Iterable[Mapping[str, Any]]):
        for batch in stream:
            given = {name: batch[name] for name in ("image", "size")}
            yield from of_batch(run(params, stats, given), batch)

    return detect


def _own_masks(drawn: dict[str, Any], classes: jax.Array) -> jax.Array | None:
    if "draw_masks" not in drawn:
        return None
    own = classes[:, :, None, None, None]
    return jax.nn.sigmoid(jnp.take_along_axis(drawn["draw_masks"], own, axis=-1)[..., 0])


def of_batch(predicted: Predicted, batch: Mapping[str, Any]) -> Iterator[tuple[int, Detections]]:
    """The images of an evaluation batch that are there, by index, each with its detections.

    Args:
      predicted: on the devices; all processes call this.
      batch: of `batches.eval_batches`.
    """
    names = ("index", "mask", "size", "whole")
    predicted, *rows = transfer.fetch((predicted, *(batch[name] for name in names)))
    for i, (index, there, size, whole) in enumerate(zip(*rows)):
        if there:
            yield int(index), on_image(predicted, i, size, whole)


def on_image(predicted: Predicted, i: int, size: np.ndarray, whole: np.ndarray) -> Detections:
    """Detections on image i of a batch, in its own pixels, best first.

    Args:
      predicted: on this host.
      i: which image of the batch.
      size: int32 (2,), height and width of the image on its canvas.
      whole: int32 (2,), of the image as it was.
    """
    own = jax.tree.map(lambda x: np.asarray(x[i]), predicted)
    there, boxes = own.final.mask, own.final.boxes
    found = final.as_detections(own.final, size, whole)
    masks, points = (), None
    if own.masks is not None:
        masks = pasting.run_lengths(own.masks[there], found.boxes, whole)
    if own.heat is not None:
        points = pasting.keypoints(own.heat[there], boxes[there])
        points[..., :2] *= (whole / size)[::-1]
    return Detections(found.boxes, found.scores, found.classes, masks, points)
