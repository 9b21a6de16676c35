"""Plans of detectors and segmenters: the step that trains, without an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import detection
from moco_jax import mesh
from moco_jax.commands import plan
from moco_jax.cost.absent import Size, batch_shapes, useful_operations
from moco_jax.detection import pixel_protocol, protocol
from moco_jax.errors import InputError
from moco_jax.training import experiment
from tests import pixel_sets, shapes

RECIPES = {
    "voc_r50c4_24k": (24_000, 20, 0),
    "coco_r50c4_1x": (90_000, 80, 0),
    "coco_r50fpn_1x": (90_000, 80, 0),
    "coco_r50fpn_2x": (180_000, 80, 0),
    "coco_keypoint": (90_000, 1, 17),
    "voc_fcn": (30_000, 21, None),
    "cityscapes_fcn": (90_000, 19, None),
}


@pytest.fixture
def sets(tmp_path):
    """Of either protocol the config of a run, what builds it, and its images in numbers."""
    pixel_sets.plain(tmp_path / "voc")
    source = shapes.write(tmp_path / "shapes", 8)
    drawn = shapes.tiny_config(source, masks=True, keypoints=True)
    pixels = pixel_sets.tiny_config(tmp_path / "voc")
    return {
        "detection": (drawn, protocol.build, Size(8, 3)),
        "segmentation": (pixels, pixel_protocol.build, Size(12, 21)),
    }


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_the_step_is_the_one_that_trains(name, sets):
    """The same program, letter by letter, of entries that a real batch has."""
    c, build, size = sets[name]
    real = build(c)
    c.data.source = "coco:nowhere.json:nowhere"
    planned = plan.build(c, jax.devices(), size)
    with experiment.train_batches(real, 0) as batches:
        entries = batches.get()
    found = batch_shapes(planned)
    assert {k: (v.shape, v.dtype) for k, v in entries.items()} == {
        k: (v.shape, v.dtype) for k, v in found.items()
    }
    texts = [
        experiment.make_step(x).lower(experiment.abstract_state(x), batch).as_text()
        for x, batch in ((real, entries), (planned, found))
    ]
    assert texts[0] == texts[1]
    assert real.steps == planned.steps
