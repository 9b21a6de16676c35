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
def test_a_step_is_the_same_on_one_and_on_eight_devices(source, monkeypatch):
    """And with the parameters split over pairs of them."""
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    c = shapes.tiny_config(source, masks=True)
    c.optim.warmup_epochs = 0.0
    x = protocol.build(c)
    with experiment.train_batches(x, 0) as stream:
        batch = jax.device_get(stream.get())
    found = []
    for devices, fsdp in ((1, 1), (8, 1), (8, 2)):
        x = x._replace(mesh=mesh.make_mesh(jax.devices()[:devices], fsdp))
        state = experiment.fresh_state(x)
        split = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
        assert (split > 20) == (fsdp > 1)
        entries = jax.device_put(batch, mesh.batched(x.mesh))
        state, metrics = experiment.make_step(x)(state, entries)
        found.append(jax.device_get((metrics, state.params, state.method_state)))
    for other in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found[0], other
        )
    losses = {name: value for name, value in found[0][0].items() if name.startswith("loss_")}
    assert len(losses) == 5
    assert all(np.isfinite(value) and value > 0 for value in losses.values())


@pytest.mark.detection
def test_losses_in_bfloat16_are_near_those_in_float32(source):
    """Other proposals are sampled, near the same objects: so their boxes are farther apart."""
    c, found = shapes.tiny_config(source, masks=True, keypoints=True), {}
    for dtype in ("float32", "bfloat16"):
        c.model.dtype = dtype
        x = protocol.build(c)
        found[dtype] = losses_of(x, experiment.fresh_state(x))
    assert len(found["float32"]) == 6
    for name, value in found["float32"].items():
        assert found["bfloat16"][name].dtype == np.float32
        near = 0.2 if name == "loss_boxes" else 0.03
        assert found["bfloat16"][name] == pytest.approx(value, rel=near), name


def losses_of(x, state):
    def losses(state, entries):
        batch, key = Batch(entries, x.augment), jax.random.key(1)
        return x.task.loss(state.params, state.method_state, batch, key, state.step)

    with experiment.train_batches(x, 0) as stream:
        _, (_, metrics) = jax.jit(mesh.inside(x.mesh, losses))(state, stream.get())
    return jax.device_get(metrics)


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
