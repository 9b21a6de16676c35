"""A class for every pixel: the network's shapes, the loss and the score at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.detection import mean_iou
from moco_jax.detection.pixel_loss import IGNORED, pixel_loss
from moco_jax.detection.segmenter import Segmenter, upsampled
from moco_jax.errors import InputError
from moco_jax.models.resnet import DEPTHS, Block, ResNet
from tests.networks import count, images, init, shapes


def test_segmenter():
    logits, variables = shapes(Segmenter(21), 2, 513, 129, 3)
    assert (logits.shape, logits.dtype) == ((2, 33, 9, 21), jnp.float32)
    # Pre-trained weights fit: dilation changes no parameter.
    plain = shapes(ResNet(*DEPTHS[50]), 2, 64, 64, 3)[1]
    for kind, tree in plain.items():
        same = jax.tree.map(lambda a, b: a.shape == b.shape, tree, variables[kind]["backbone"])
        assert all(jax.tree.leaves(same))
    head = 9 * 2048 * 256 + 9 * 256 * 256 + 2 * 2 * 256 + 256 * 21 + 21
    assert count(variables["params"]) == 23_508_032 + head
    pixels = jax.eval_shape(upsampled, logits)
    assert pixels.shape == (2, 513, 129, 21)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("sides", [(9, 13), (3, 3)])
def test_a_dilated_block_is_the_block_of_every_second_cell(bottleneck, sides):
    plain = Block(4, 1, bottleneck, False, 1, jnp.float32)
    x = images(1, *sides, 8)
    variables = init(plain, x)
    got = plain.clone(dilation=2).apply(variables, x, False)
    want = plain.apply(variables, x[:, ::2, ::2], False)
    np.testing.assert_allclose(got[:, ::2, ::2], want, atol=1e-5)


@pytest.mark.parametrize("side", [(512, 513), (1, 33), (32, 16)])
def test_sides_between_the_cells_are_refused(side):
    with pytest.raises(
        InputError, match=r"expected two sides of 16 times a number, and 1; nearest: \(.*\d\)"
    ):
        shapes(Segmenter(2), 1, *side, 3)


def test_loss_and_gradient_of_no_class_are_zero():
    labels = np.full((1, 2, 2), IGNORED, np.uint8)
    value, grad = jax.value_and_grad(pixel_loss)(jnp.ones((1, 2, 2, 3)), labels)
    assert value == 0
    assert not np.asarray(grad).any()


def test_confusion_counts_many_pixels_exactly():
    """More than float16 or bfloat16 could count, and an odd number."""
    labels = np.zeros((2, 401, 403), np.uint8)
    labels[1, 0, :5] = (1, 1, IGNORED, IGNORED, 2)
    logits = np.zeros((*labels.shape, 3), np.float32)
    logits[1, 0, 0, 1] = 1
    got = jax.jit(mean_iou.confusion)(logits, labels)
    assert got.tolist() == [[2 * 401 * 403 - 5, 0, 0], [1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("counts", "iou", "mean"),
    [
        ([[3, 1, 0], [0, 2, 0], [0, 0, 0]], [3 / 4, 2 / 3, None], (3 / 4 + 2 / 3) / 2),
        ([[3, 0, 1], [0, 0, 0], [0, 0, 0]], [3 / 4, None, 0.0], 3 / 8),
        ([[0] * 3] * 3, [None] * 3, None),
    ],
)
def test_classes_that_are_nowhere_leave_the_mean(counts, iou, mean):
    nan = lambda x: float("nan") if x is None else x  # noqa: E731
    got = mean_iou.scores(np.array(counts), "abc")
    np.testing.assert_allclose(list(got.iou.values()), [nan(x) for x in iou])
    np.testing.assert_allclose(got.mean_iou, nan(mean))
