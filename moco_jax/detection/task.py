"""What the loop trains: a detector, by the losses of its proposals and heads.

B images, G true boxes of an image, N anchors, R proposals and S samples of an image, Q = S / 4 of
them that may be objects, K classes.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.detection import anchors as anchoring
from moco_jax.detection import sampling
from moco_jax.detection.architecture import NETWORKS, layers_of, make_detector
from moco_jax.detection.box_loss import Samples, box_losses, sample_proposals
from moco_jax.detection.dense_task import DenseTask, variables_of
from moco_jax.detection.detector import Detector
from moco_jax.detection.drawing_loss import keypoint_loss, mask_loss, mask_targets
from moco_jax.detection.framing import canvases_of
from moco_jax.detection.proposal_loss import proposal_losses, proposal_targets
from moco_jax.detection.proposals import propose
from moco_jax.mesh import GROUPS, by_rows
from moco_jax.methods.method import Batch, Tree

_CANVAS = (64, 64)  # on which first weights are made: they do not depend on it


class Sizes(NamedTuple):
    """Proposals of a map before suppression and of an image after it, and S of an image."""

    before: int
    after: int
    samples: int


def make(config: ConfigDict, classes: int, keypoints: int) -> DenseTask:
    """Faster R-CNN, with masks and keypoints where `config.detection` asks for them.

    Args:
      config: of the run.
      classes: K, without the background.
      keypoints: of an object, if any.

    Raises:
      InputError: values that do not fit each other.
    """
    d, net = config.detection, make_detector(config, classes, keypoints)
    sizes = Sizes(*d.proposals, d.samples)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        arrays = jnp.zeros((1, *_CANVAS, 3)), jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), bool)
        variables = net.init(key, *arrays, train=False)
        return variables["params"], {"stats": variables["batch_stats"]}

    def loss(params: Tree, state: Tree, batch: Batch, key: jax.Array, step: jax.Array):
        del step
        variables = variables_of(params, state["stats"])
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
        run = partial(_losses, sizes=sizes)
        parts, new = net.apply(
            variables, batch.view(0), batch.entries, keys, method=run, mutable=["batch_stats"]
        )
        stats = jax.lax.stop_gradient(new["batch_stats"])
        metrics = {f"loss_{name}": part for name, part in parts.items()}
        return sum(parts.values()), ({"stats": stats}, metrics)

    return DenseTask(
        init=init,
        loss=loss,
        net=net,
        chance_loss=_chance(d, classes),
        layers=layers_of(d.network, NETWORKS[config.model.name]),
        layout=GROUPS,
        recipe=_recipe(d, classes),
    )


def _losses(
    net: Detector, images: jax.Array, truth: dict[str, jax.Array], keys: jax.Array,
    sizes: Sizes,
) -> dict[str, jax.Array]:  # fmt: skip
    """The parts of the loss, each float32 and of weight 1, as in detectron2."""
    maps = net.maps(images, True)
    logits, deltas = net.propose(maps)
    anchors = anchoring.pyramid_anchors([x.shape[1:3] for x in maps], net.strides, net.anchor_sizes)
    given = {"logits": logits, "deltas": deltas, "keys": keys}
    given |= {name: truth[name] for name in ("boxes", "there", "size")}
    draw = partial(_draw, anchors=anchors, sizes=sizes)
    labels, targets, samples = by_rows(draw)({}, jax.lax.stop_gradient(given))
    objectness, offsets = proposal_losses(
        jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1), labels, targets
    )
    own = jax.tree.map(lambda x: x[:, : _objects(samples.mask.shape[1])], samples)
    found = net.heads(maps, samples.boxes, samples.mask, True, own.foreground)
    classes, boxes = box_losses(*found["classify"], samples, truth["classes"], truth["boxes"])
    parts = {"objectness": objectness, "proposals": offsets, "classes": classes, "boxes": boxes}
    return parts | _drawing_losses(found, own, truth)


def _drawing_losses(
    found: dict[str, Any], own: Samples, truth: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Of masks and keypoints, where there are heads for them; of the Q samples alone."""
    parts = {}
    if "draw_masks" in found:
        logits = found["draw_masks"]
        cut = partial(mask_targets, cells=logits.shape[2])
        targets = jax.vmap(cut)(own, truth["boxes"], truth["bits"])
        parts["masks"] = mask_loss(logits, own, truth["classes"], targets)
    if "draw_keypoints" in found:
        parts["keypoints"] = keypoint_loss(found["draw_keypoints"], own, truth["keypoints"])
    return parts


def _draw(
    _: Tree, given: dict[str, Any], anchors: list[np.ndarray], sizes: Sizes
) -> tuple[jax.Array, jax.Array, Samples]:
    """Labels (B, N) and codes (B, N, 4) of anchors, and samples of proposals: no gradient."""
    whole = jnp.concatenate([jnp.asarray(own) for own in anchors])

    def of_image(one: dict[str, Any]) -> tuple[jax.Array, jax.Array, Samples]:
        first, second = jax.random.split(one["keys"])
        labels, targets = proposal_targets(first, one["boxes"], one["there"], whole)
        found, _, mask = propose(
            one["logits"], one["deltas"], anchors, one["size"], sizes.before, sizes.after
        )
        count = min(sizes.samples, len(found) + len(one["boxes"]))
        samples = sample_proposals(second, found, mask, one["boxes"], one["there"], count)
        return labels, targets, samples

    return jax.vmap(of_image)(given)


def _objects(count: int) -> int:
    """Q of S samples."""
    return max(int(count * sampling.PROPOSAL_FRACTION), 1)


def _chance(options: ConfigDict, classes: int) -> float:
    masks = math.log(2) if options.masks else 0.0
    keypoints = math.log(56 * 56) if options.keypoints else 0.0
    return math.log(2) + math.log(classes + 1) + masks + keypoints


def _recipe(options: ConfigDict, classes: int) -> str:
    heads = [name for name in ("masks", "keypoints") if options[name]]
    learned = " and ".join([", ".join(["boxes", *heads[:-1]]), *heads[-1:]])
    sizes = ", ".join(f"{height} x {width}" for height, width in canvases_of(options))
    network = {"fpn": "a feature pyramid", "c4": "C4"}[options.network]
    return f"{learned} of {classes} classes on {network}, canvas {sizes}"
