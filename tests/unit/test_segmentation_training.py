"""The experiment of `protocol='segmentation'`: what is refused, its step, its score."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import detection
from moco_jax import mesh as meshes
from moco_jax import options
from moco_jax.detection import mean_iou, measured_pixels, pixel_protocol
from moco_jax.detection.segmented import open_segmented
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch
from moco_jax.optim import make_schedule
from moco_jax.training import experiment
from tests import pixel_sets
from tests.pixel_sets import tiny_config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    pixel_sets.plain(root)
    return root


@pytest.mark.detection
def test_the_same_loss_on_one_device_and_eight(root):
    """And the same statistics; and a network that knows nothing is at the chance loss."""
    c = tiny_config(root)
    data = open_segmented(c.data.source)
    outcomes = []
    for count in (1, 8):
        x = pixel_protocol.assembled(c, meshes.make_mesh(jax.devices()[:count]), data)
        state = experiment.fresh_state(x)
        loss = jax.jit(meshes.inside(x.mesh, partial(loss_of, x)))
        with experiment.train_batches(x, 0) as stream:
            outcomes.append(loss(state, stream.get()))
    (one, (stats, _)), (other, (other_stats, _)) = outcomes
    assert one == pytest.approx(x.task.chance_loss, abs=0.05)
    assert one == pytest.approx(float(other), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, other_stats)


@pytest.mark.detection
def test_the_loss_in_bfloat16_is_near_that_in_float32(root):
    c, losses = tiny_config(root), {}
    for dtype in ("float32", "bfloat16"):
        c.model.dtype = dtype
        x = pixel_protocol.build(c)
        with experiment.train_batches(x, 0) as stream:
            loss = jax.jit(meshes.inside(x.mesh, partial(loss_of, x)))
            losses[dtype], _ = loss(experiment.fresh_state(x), stream.get())
    assert losses["bfloat16"].dtype == losses["float32"].dtype == np.float32
    assert losses["bfloat16"] == pytest.approx(float(losses["float32"]), rel=3e-3)
    assert losses["bfloat16"] != losses["float32"]


def loss_of(x, state, entries):
    key = jax.random.key(0)
    return x.task.loss(state.params, state.method_state, Batch(entries, x.augment), key, state.step)


def test_a_confusion_of_the_whole_test_part(root):
    """Of a state that was not trained: each of its pixels once, and no padding."""
    c = tiny_config(root)
    x = pixel_protocol.assembled(c, meshes.make_mesh(), open_segmented(c.data.source))
    counts = measured_pixels.make_count(x)(experiment.fresh_state(x))
    pixels = 40 * 60
    # 12, 13, 14 and 15 are of the classes 0, 1, 2 and 0.
    assert counts.sum(1)[:4].tolist() == [2 * pixels, pixels, pixels, 0]
    assert counts.sum() == 4 * pixels
    assert 0 <= mean_iou.scores(counts, x.data.test.class_names).mean_iou < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation.crop": (32, 33)}, r"expected two sides of 16 .* nearest: \(33, 33\)"),
        ({"segmentation.canvas": (49, 49)}, r"12.jpg has a side of 60; expected at least 65"),
        ({"segmentation.scales": (2.0, 0.5)}, "in order"),
        ({"model.name": "vit_small"}, "expected one of resnet18, .*protocol='segmentation'"),
        ({"model.resnet.stem": "cifar"}, "expected 'imagenet' with protocol='segmentation'"),
        ({"accumulate": 2}, "expected 1 with protocol='segmentation'"),
        ({"data.source": "coco:a.json:b"}, "cityscapes"),
        ({"data.batch_size": 12}, "12"),
        ({"segmentation.mirrored": 1.5}, "mirrored"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(change, message, root):
    c = tiny_config(root)
    c.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        pixel_protocol.build(c)


def test_a_set_without_a_test_part_needs_another(tmp_path, root):
    pixel_sets.voc(tmp_path, "abcdefgh")
    with pytest.raises(InputError, match=r"has no test images; evals\.source names others"):
        pixel_protocol.build(tiny_config(tmp_path))
    c = tiny_config(tmp_path)
    c.evals.source = f"voc:{root}"
    assert len(pixel_protocol.build(c).data.test) == 4


@pytest.mark.parametrize(
    ("variant", "rate", "steps", "images", "crop"),
    [("voc_fcn", 0.003, 30_000, 10_582, 513), ("cityscapes_fcn", 0.01, 90_000, 2975, 769)],
)
def test_the_recipes_are_those_of_mocos_appendix(variant, rate, steps, images, crop):
    c = detection.get_config(variant)
    options.check(c)
    assert (c.protocol, c.model.name, c.data.batch_size) == ("segmentation", "resnet50", 16)
    assert (c.optim.weight_decay, c.optim.momentum, c.optim.exclude) == (1e-4, 0.9, ())
    assert (c.segmentation.crop, c.segmentation.channels) == ((crop, crop), 256)
    assert (c.segmentation.scales, c.segmentation.mirrored) == ((0.5, 2.0), 0.5)
    assert round(c.epochs * images / 16) == steps
    schedule = make_schedule(c.optim, 16, steps, images / 16)
    at = [0, steps * 7 // 10 - 1, steps * 7 // 10, steps * 9 // 10 - 1, steps * 9 // 10]
    wanted = [rate, rate, rate / 10, rate / 10, rate / 100]
    np.testing.assert_allclose([schedule(step) for step in at], wanted, rtol=1e-5)
