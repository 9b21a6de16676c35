"""The step of a detector: on any number of devices, from any checkpoint, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax import convert, mesh
from moco_jax.checkpoint import named
from moco_jax.convert.formats.ours import spread
from moco_jax.detection import architecture, protocol
from moco_jax.detection.dense_task import normalized
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch
from moco_jax.training import experiment, step
from moco_jax.training.first_state import first_state
from tests import annotations, shapes
from tests.torchlike import small_contents


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return shapes.write(tmp_path_factory.mktemp("shapes"), 8)


@pytest.mark.detection
def test_losses_on_one_and_on_eight_devices_are_equal(source):
    x = protocol.build(shapes.tiny_config(source))
    with experiment.train_batches(x, 0) as stream:
        batch = jax.device_get(stream.get())
    found = []
    for devices in (1, 8):
        x = x._replace(mesh=mesh.make_mesh(jax.devices()[:devices]))
        state = experiment.fresh_state(x)
        losses = jax.jit(mesh.inside(x.mesh, lambda s, e, x=x: x.task.loss(
            s.params, s.method_state, Batch(e, x.augment), jax.random.key(1), s.step)))  # fmt: skip
        _, (new, metrics) = losses(state, jax.device_put(batch, mesh.batched(x.mesh)))
        found.append(jax.device_get((metrics, new)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), *found)
    assert all(np.isfinite(value) and value > 0 for value in found[0][0].values())


@pytest.mark.parametrize("network", ["fpn", "c4"])
def test_starts_from_a_checkpoint_and_says_what_it_takes(network, source, tmp_path, caplog):
    contents, path = small_contents("moco"), tmp_path / "file.pth.tar"
    convert.write(path, contents)
    c = shapes.tiny_config(source, network=network)
    c.model.resnet.width, c.init = 1 / 32, str(path)
    with caplog.at_level("INFO"):
        leaves = named(first_state(protocol.build(c), tmp_path))
    stage = "last_stage" if network == "c4" else "backbone"
    for name, leaf in contents.leaves.items():
        if name.startswith(("params/backbone/", "method_state/stats/backbone/")):
            name = name.replace("backbone/layer4", f"{stage}/layer4")
            wanted = spread(spread(leaf, 1), 1) if "/stats/" in name else leaf
            np.testing.assert_array_equal(leaves[name], wanted, name)
    taken, left = (next(r for r in caplog.messages if r.startswith(start))
                   for start in ("Taken from", "At their first values"))  # fmt: skip
    of_c4 = "75 of backbone, 25 of last_stage"
    assert taken == f"Taken from {path}: {'100 of backbone' if network == 'fpn' else of_c4}"
    assert "2 of predictor" not in left
    assert "4 of predictor" in left
    assert ("4 of last_stage" in left) == (network == "c4"), "MoCo's own norm"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.name": "vit_tiny"}, "model.name='vit_tiny': expected one of resnet18"),
        ({"model.resnet.stem": "cifar"}, "stem='cifar': expected 'imagenet' with protocol"),
        ({"init_part": "all"}, "init_part='all': expected 'backbone'"),
        ({"accumulate": 2}, "accumulate=2: expected 1"),
        (
            {"detection.canvas": (64, 70)},
            r"canvas=\(64, 70\): expected multiples of 32.*\(64, 64\)",
        ),
        ({"detection.boxes": 2}, "boxes=2: .*expected at least"),
        ({"detection.sides": ()}, "detection.sides=.*one or more"),
        ({"detection.network": "fpm"}, "did you mean 'fpn'"),
        (
            {"detection.network": "c4", "detection.keypoints": True},
            "keypoints=True: expected False",
        ),
        ({"detection.keypoints": True, "detection.spreads": (0.1,)}, "are of 1 keypoints.* the 2"),
        ({"evals.source": "", "data.test_share": 0.5}, "test_share=0.5: expected 0.0"),
        ({"evals.source": ""}, "no test images; evals.source names others"),
    ],
)
def test_what_cannot_be_is_refused(changed, message, source):
    c = shapes.tiny_config(source)
    c.update_from_flattened_dict(changed)
    with pytest.raises(InputError, match=message):
        experiment.train_batches(protocol.build(c), 0)


def test_masks_and_classes_that_are_not_there_are_refused(source, tmp_path):
    annotations.voc(tmp_path, "abcd")
    c = shapes.tiny_config(f"voc:{tmp_path}", masks=True)
    with pytest.raises(InputError, match=r"masks=True, and voc:.* has no outlines"):
        protocol.build(c)
    c.evals.source = source
    with pytest.raises(InputError, match=r"other class_names than voc:.*\('rectangle'"):
        protocol.build(c)


def test_padding_of_the_canvas_is_the_mean():
    image = np.full((2, 4, 6, 3), 51, np.uint8)
    entries = {"image": image, "size": np.array([[4, 6], [2, 3]], np.int32)}
    x = np.asarray(normalized(jax.tree.map(jnp.asarray, entries), 0, (0.1,) * 3, (0.5,) * 3))
    np.testing.assert_allclose(x[0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(x[1, :2, :3], 0.2, rtol=1e-6)
    assert not x[1, 2:].any()
    assert not x[1, :, 3:].any()


@pytest.mark.parametrize("network", ["fpn", "c4"])
def test_layers_are_those_of_the_parameters(network, source):
    x = protocol.build(shapes.tiny_config(source, network=network))
    params = x.shapes.params
    for path in x.task.layers:
        step.at(params, path)
    assert len(x.task.layers) == 1 + 8
    assert architecture.layers_of(network, 50)[-1].endswith("layer4_2")
