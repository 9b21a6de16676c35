"""Plans of detectors and segmenters: the step that trains, without an image."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from configs import detection
from moco_jax.commands import plan
from moco_jax.cost.absent import Size, batch_shapes, useful_operations
from moco_jax.detection import numbered, pixel_protocol, protocol
from moco_jax.errors import InputError
from moco_jax.ops.operations import INTERPOLATION, operations
from moco_jax.training import experiment
from tests import pixel_sets, shapes


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
    assert described(batch_shapes(planned)) == described(entries)
    texts = [
        experiment.make_step(x).lower(experiment.abstract_state(x), batch).as_text()
        for x, batch in ((real, entries), (planned, batch_shapes(planned)))
    ]
    assert texts[0] == texts[1]
    assert real.steps == planned.steps


def described(entries):
    return {name: (value.shape, value.dtype) for name, value in entries.items()}


@pytest.mark.parametrize(
    ("variant", "steps", "classes"),
    [
        ("voc_r50c4_24k", 24_000, 20),
        ("coco_r50c4_1x", 90_000, 80),
        ("coco_r50fpn_1x", 90_000, 80),
        ("coco_r50fpn_2x", 180_000, 80),
        ("coco_keypoint", 90_000, 1),
        ("voc_fcn", 30_000, 21),
        ("cityscapes_fcn", 90_000, 19),
    ],
)
def test_the_recipes_data_are_known_by_name(variant, steps, classes):
    c = detection.get_config(variant)
    for source in (c.data.source, re.sub("annotations|VOCdevkit", "/data/one", c.data.source)):
        c.data.source = source
        if c.protocol == "segmentation":
            train = numbered.segmented(c, None).train
        else:
            train = numbered.annotated(c, None, 0).train
        assert round(c.epochs * len(train) / 16) == steps
        assert len(train.class_names) == classes


@pytest.mark.parametrize(
    ("variant", "changed", "size", "message"),
    [
        ("bccd_demo", {}, None, r"'voc:data/BCCD': its size is not known .*VOC2007,VOC2012"),
        ("bccd_demo", {}, Size(205), "--classes=0: expected at least 1 with protocol='detection'"),
        ("bccd_demo", {}, Size(205, 3, (8, 8, 3)), r"--shape=\(8, 8, 3\): expected none"),
        ("voc_fcn", {"data.source": "coco:a.json:b"}, None, "not known .*voc:VOC2012, cityscapes"),
        ("voc_fcn", {"accumulate": 2}, None, "accumulate=2: expected 1"),
        ("bccd_demo", {"data.batch_size": 12}, Size(205, 3), "multiple of the 8 devices"),
    ],
)
def test_what_cannot_be_planned_is_refused(variant, changed, size, message):
    c = detection.get_config(variant)
    c.update_from_flattened_dict(changed)
    with pytest.raises(InputError, match=message):
        plan.build(c, jax.devices(), size)


def test_useful_are_the_networks_products_and_those_of_its_gradient(sets):
    """Thrice the forward ones, but for the gradient of pixels; enlarging the map is none."""
    c, _, size = sets["segmentation"]
    x = plan.build(c, jax.devices(), size)
    state, images = x.shapes, jax.ShapeDtypeStruct((8, *c.segmentation.crop, 3), jnp.float32)
    variables = {"params": state.params, "batch_stats": state.method_state["stats"]}
    forward = operations(lambda v, i: x.task.net.apply(v, i, train=False), variables, images)
    kernel = state.params["backbone"]["conv1"]["kernel"].shape
    # Of 17 places in 33 pixels the first and the last see 4 pixels of 7, their neighbours 6.
    places = 13 * 7 + 2 * 6 + 2 * 4
    first = 2 * 8 * places**2 * math.prod(kernel[2:])
    assert useful_operations(x) == 3 * forward - first


def test_a_product_that_stands_for_a_gather_is_not_counted():
    def f(w, x):
        def turn(v):
            with jax.named_scope(INTERPOLATION):
                v = w @ v
            return v @ v

        return jax.lax.map(jax.vmap(turn), x).sum()

    found = operations(jax.grad(f), jnp.ones((3, 3)), jnp.ones((5, 2, 3, 3)))
    assert found == 3 * 5 * 2 * 2 * 27


SMALL = {
    "bccd_demo": (
        "model.resnet.width=0.0625", "detection.canvas=(64,64)", "detection.proposals=(50,40)",
        "detection.samples=32", "detection.channels=8",
    ),
    "voc_fcn": (
        "model.name=resnet18", "model.resnet.width=0.0625", "data.batch_size=8",
        "segmentation.crop=(33,33)",
    ),
}  # fmt: skip


@pytest.mark.detection
@pytest.mark.parametrize("variant", SMALL)
def test_the_command(variant, capsys):
    flags = [f"--config.{option}" for option in SMALL[variant]]
    config = f"--config={detection.__file__}:{variant}"
    assert plan.main([config, *flags, "--images=80", "--classes=3"]) == 0
    out = capsys.readouterr().out
    for part in ("8 x cpu, batch 8: 1 images a chip", "memory: ", "useful", "all-reduce"):
        assert part in out


def test_one_canvas_alone_is_planned(sets):
    c, _, size = sets["detection"]
    c.detection.more_canvases = ((64, 32),)
    with pytest.raises(InputError, match=r"more_canvases=\(\(64, 32\),\): .*plan each"):
        plan.build(c, jax.devices(), size)
