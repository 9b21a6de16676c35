"""From pixels to detections: what is drawn in which boxes, and where that is in the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.detection import inference, masks, pasting
from moco_jax.detection.box_heads import BoxHead
from moco_jax.detection.dense_heads import KeypointHead, MaskHead
from moco_jax.detection.detector import Detector, PyramidDetector
from moco_jax.detection.final import as_detections, final_detections

CLASSES, CELLS = 3, 4


class Scripted(Detector):
    """Finds an anchor where red is; its class is how much; draws what shows the box and class."""

    strides, anchor_sizes = (16,), ((16,),)

    def maps(self, images, train):
        return (images[:, ::16, ::16],)

    def propose(self, maps):
        red = maps[0][..., 0]
        logits = jnp.stack([-red, jnp.where(red > 0, 9.0, -9.0), -red], -1)  # the square anchor
        return [logits.reshape(len(red), -1)], [jnp.zeros((len(red), red[0].size * 3, 4))]

    def heads(self, maps, boxes, mask, train):
        corner = (boxes[..., :2] + 8).astype(jnp.int32) // 16
        red = jax.vmap(lambda m, c: m[c[:, 1], c[:, 0], 0])(maps[0], corner)
        place = (red.astype(jnp.int32) - 1) % (CLASSES + 1)  # the last: background
        logits = 9 * jax.nn.one_hot(place, CLASSES + 1)
        deltas = jnp.zeros((*boxes.shape[:2], CLASSES, 4)).at[..., 0].set(2.5)  # a quarter right
        shape = (*boxes.shape[:2], CELLS, CELLS)
        own = jnp.broadcast_to(boxes[..., 0, None, None] / 9, shape)
        drawn = jnp.stack([own + i for i in range(CLASSES)], -1)
        heat = jnp.zeros((*shape, 1)).at[:, :, 1, 2].set(5.0)
        return {"classify": (logits, deltas), "draw_masks": drawn, "draw_keypoints": heat}


def scripted():
    """Two images of 48 x 64 on a canvas; the second is smaller, and its object past its border."""
    images = np.zeros((2, 48, 64, 3), np.float32)
    images[0, 16, 32, 0], images[0, 32, 16, 0], images[1, 32, 48, 0] = 2, 3, 1
    run = jax.jit(inference.predict, static_argnums=(0, 4, 5))
    return run(Scripted(), {}, images, np.array([[48, 64], [20, 30]]), 8, 6)


def test_masks_and_keypoints_are_of_the_final_boxes():
    found = scripted()
    there = np.asarray(found.final.mask)
    assert there.sum(1).tolist() == [2, 0]
    order = np.argsort(found.final.classes[0][there[0]])
    boxes = np.asarray(found.final.boxes[0])[there[0]][order]
    np.testing.assert_allclose(boxes, [[28, 8, 44, 24], [12, 24, 28, 40]], atol=1e-4)
    wanted = 1 / (1 + np.exp(-(boxes[:, 0] / 9 + [1, 2])))
    masks = np.asarray(found.masks[0])[there[0]][order]
    np.testing.assert_allclose(masks, np.broadcast_to(wanted[:, None, None], masks.shape), 1e-5)
    assert found.heat.shape == (2, 6 * CLASSES, CELLS, CELLS, 1)


def test_detections_lie_in_the_whole_image():
    """Twice as high and four times as wide as on the canvas."""
    found = inference.on_image(scripted(), 0, np.array([48, 64]), np.array([96, 256]))
    i = found.classes.tolist().index(1)
    np.testing.assert_allclose(found.boxes[i], [112, 16, 176, 48], atol=1e-3)
    bits = masks.decode(found.masks[i])
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (16, 47, 112, 175)
    # The largest pixel of cell (2, 1) of 4 on 16 pixels: 9 or 10 to the right, 5 or 6 down.
    x, y, score = found.keypoints[i, 0]
    assert 112 + 4 * 9 < x < 112 + 4 * 11
    assert 16 + 2 * 5 < y < 16 + 2 * 7
    assert 0.6 < score < 0.7  # half a pixel beside the peak of 5
    empty = inference.on_image(scripted(), 1, np.array([20, 30]), np.array([20, 30]))
    assert (len(empty), empty.masks, empty.keypoints.shape) == (0, (), (0, 1, 3))


def test_shapes_of_a_network():
    net = PyramidDetector(3, 18, 1, 8, BoxHead(), MaskHead(3), KeypointHead(5, ()))

    def run(key, images, sizes, boxes, mask):
        variables = net.init(key, images, boxes, mask, train=False)
        return inference.predict(net, variables, images, sizes, 40, 40)

    arrays = [(jnp.float32, 2, 64, 96, 3), (jnp.int32, 2, 2), (jnp.float32, 2, 1, 4), (bool, 2, 1)]
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for dtype, *shape in arrays]
    found = jax.eval_shape(run, jax.random.key(0), *arrays)
    assert [x.shape for x in found.final] == [(2, 100, 4), (2, 100), (2, 100), (2, 100)]
    assert found.masks.shape == (2, 100, 28, 28)
    assert found.heat.shape == (2, 100, 56, 56, 5)


def test_a_box_beyond_a_class_is_its_own_and_padding_is_nothing():
    """Two proposals that lie on one another: both classes stay, of each class one box."""
    logits = np.log([[0.6, 0.3, 0.1], [0.5, 0.44, 0.06], [1, 1e-9, 1e-9]]).astype(np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], np.float32)
    mask = np.array([True, True, False])
    found = jax.jit(final_detections)(
        logits, np.zeros((3, 2, 4), np.float32), boxes, mask, np.array([40, 40])
    )
    found = as_detections(found, np.array([40, 40]), np.array([80, 20]))
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.6, 0.44], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [[0, 0, 5, 20], [0, 0, 5, 22]], atol=1e-4)


@pytest.mark.parametrize(
    ("box", "covered"),
    [
        ((2, 1, 6, 9), (slice(1, 9), slice(2, 6))),
        ((2.4, 1.6, 6.4, 8.6), (slice(2, 9), slice(2, 6))),  # a pixel's centre decides
        ((0, 0, 12, 10), (slice(0, 10), slice(0, 12))),
        ((3.1, 3.1, 3.2, 3.2), (slice(0, 0), slice(0, 0))),  # no centre in it
        ((3, 3, 3, 3), (slice(0, 0), slice(0, 0))),
        ((3.5, 1, 6.5, 9), (slice(1, 9), slice(3, 7))),  # on the border: a half
    ],
)
def test_a_full_mask_is_its_box(box, covered):
    wanted = np.zeros((10, 12), bool)
    wanted[covered] = True
    full = np.ones((28, 28), np.float32)
    np.testing.assert_array_equal(pasting.paste(full, np.array(box, np.float32), 10, 12), wanted)
