"""Shapes and parameters of the detectors, and padding that touches no statistic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.detection.box_heads import BoxHead, LastStage
from moco_jax.detection.dense_heads import KeypointHead, MaskHead
from moco_jax.detection.detector import C4Detector, PyramidDetector
from moco_jax.detection.pyramid import Pyramid
from moco_jax.errors import InputError
from moco_jax.models.norm import BatchNorm
from tests.networks import count, images, init


def outputs(net, height, width, boxes):
    run = lambda key, *a: net.init_with_output(key, *a, train=True)  # noqa: E731
    shapes = [(2, height, width, 3), (2, boxes, 4)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    mask = jax.ShapeDtypeStruct((2, boxes), bool)
    return jax.eval_shape(run, jax.random.key(0), *arrays, mask)


def test_pyramid_detector():
    net = PyramidDetector(80, mask_head=MaskHead(80, norm=True), keypoint_head=KeypointHead(17))
    found, variables = outputs(net, 128, 192, 5)
    cells = [3 * 32 * 48, 3 * 16 * 24, 3 * 8 * 12, 3 * 4 * 6, 3 * 2 * 3]
    logits, deltas = found["propose"]
    assert [x.shape for x in logits] == [(2, n) for n in cells]
    assert [x.shape for x in deltas] == [(2, n, 4) for n in cells]
    assert [x.shape for x in found["classify"]] == [(2, 5, 81), (2, 5, 80, 4)]
    assert found["draw_masks"].shape == (2, 5, 28, 28, 80)
    assert found["draw_keypoints"].shape == (2, 5, 56, 56, 17)
    assert {x.dtype for x in jax.tree.leaves((found, variables))} == {jnp.dtype("float32")}


def test_c4_detector():
    net = C4Detector(20, mask_head=MaskHead(20, convolutions=0))
    found, variables = outputs(net, 128, 192, 5)
    (logits,), (deltas,) = found["propose"]
    assert (logits.shape, deltas.shape) == ((2, 15 * 8 * 12), (2, 15 * 8 * 12, 4))
    assert [x.shape for x in found["classify"]] == [(2, 5, 21), (2, 5, 20, 4)]
    assert found["draw_masks"].shape == (2, 5, 14, 14, 20)
    params = variables["params"]
    # The backbone and the last stage are one ResNet-50; MoCo's norm comes on top.
    assert count(params["backbone"]) + count(params["last_stage"]) == 23_508_032 + 2 * 2048
    assert params["last_stage"]["extra_bn"]["scale"].shape == (2048,)


@pytest.mark.parametrize(
    "head",
    [
        BoxHead(convolutions=1, channels=4, features=4, norm=True),
        MaskHead(3, convolutions=1, channels=4, norm=True),
        KeypointHead(3, (4,), norm=True),
        LastStage(18, 1 / 64),
    ],
    ids=lambda head: type(head).__name__,
)
def test_padding_changes_nothing_of_the_others(head):
    x, mask = images(5, 4, 4, 3), np.array([True, False, True, True, False])
    variables = jax.jit(lambda key: head.init(key, x, mask, True))(jax.random.key(0, impl="rbg"))
    run = jax.jit(lambda x: head.apply(variables, x, mask, True, mutable=["batch_stats"]))
    one, stats = run(x)
    changed = np.where(mask[:, None, None, None], x, 9 - 5 * x)
    other, other_stats = run(changed)
    np.testing.assert_allclose(one[mask], other[mask], atol=1e-5)
    assert abs(one[~mask] - other[~mask]).max() > 1e-3
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(other_stats), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_masked_norm_is_the_norm_of_what_is_left(groups):
    x = images(8, 3, 2, 4) + 2
    mask = np.array([True, True, False, True, False, True, True, True])
    mask = mask if groups == 1 else np.array([True, True, False, True] * 2)
    net = BatchNorm(groups)
    variables = init(net, x)
    run = jax.jit(lambda *a: net.apply(variables, *a, mutable=["batch_stats"]), static_argnums=1)
    got, new = run(x, True, mask)
    wanted, left = run(x[mask], True)
    np.testing.assert_allclose(got[mask], wanted, atol=1e-5)
    for one, other in zip(jax.tree.leaves(new), jax.tree.leaves(left), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    # Nothing left: finite, and the running statistics stay.
    none = np.zeros(8, bool)
    got, new = run(x, True, none)
    assert np.isfinite(got).all()
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def test_a_canvas_that_does_not_halve_is_refused():
    net = Pyramid(4)
    maps = [jnp.zeros((1, side, 8, 2)) for side in (13, 7)]
    with pytest.raises(InputError, match=r"\(13, 8\) and \(7, 8\).* multiples of 8"):
        net.init(jax.random.key(0), maps, train=False)
