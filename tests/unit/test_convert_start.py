"""`config.init`: what a run takes from a file, and what it refuses."""

import logging
from collections import OrderedDict

import jax
import numpy as np
import pytest

from moco_jax import convert, mesh
from moco_jax.checkpoint import Checkpoints, named
from moco_jax.convert import torchfile
from moco_jax.convert.formats.ours import IMPORTED, optimizer_leaf, spread
from moco_jax.errors import CheckpointError
from moco_jax.methods import Facts, make_method
from moco_jax.optim import make_optimizer, make_schedule
from moco_jax.training import experiment, loop
from moco_jax.training.first_state import first_state
from tests.tiny import tiny_config, write_npz
from tests.torchlike import save_torch, small_config, small_contents

STEPS_PER_EPOCH = 4.0


def experiment_of(c, path, **options):
    """An experiment without data, of 40 steps."""
    c.init = str(path)
    c.epochs = 10.0
    c.update(options)
    shape = (c.data.image_size, c.data.image_size, 3)
    method = make_method(c, Facts(1000, 0, shape, 40, STEPS_PER_EPOCH))
    schedule = make_schedule(c.optim, c.data.batch_size, 40, STEPS_PER_EPOCH)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    tx = make_optimizer(c.optim, params, schedule)
    devices = mesh.make_mesh(jax.devices()[:1])
    return experiment.Experiment(
        c, devices, None, None, (), (), None, method, tx, schedule, None, 40, STEPS_PER_EPOCH, {}
    )


def start(c, path, tmp_path, **options):
    state = first_state(experiment_of(c, path, **options), tmp_path)
    return state, named(state)


@pytest.fixture
def official(tmp_path):
    """Contents, and the official file of them."""

    def make(method="moco", vit=False):
        contents = small_contents(method, vit)
        convert.write(tmp_path / "f.pth.tar", contents)
        return contents, tmp_path / "f.pth.tar"

    return make


def value(contents, name, like):
    """What the official file holds of a leaf, for as many groups as `like` has."""
    leaf = contents.leaves[name]
    return spread(spread(leaf, 1), len(like)) if "/stats/" in name else leaf


@pytest.mark.parametrize("vit", [False, True])
@pytest.mark.parametrize("method", ["moco", "moco_v3"])
def test_a_training_is_continued_whole(method, vit, official, tmp_path):
    if method == "moco" and vit:
        contents, path = small_contents(method, vit), tmp_path / "run"
        convert.write(path, contents, "ours")
    else:
        contents, path = official(method, vit)
    state, leaves = start(small_config(method, vit), path, tmp_path)
    assert int(state.step) == 8, "two epochs of four steps"
    for name, leaf in leaves.items():
        if name.startswith(("params/", "method_state/")):
            if path.is_dir() and "/stats/" in name:
                np.testing.assert_array_equal(leaf, contents.leaves[name])
            else:
                np.testing.assert_array_equal(leaf, value(contents, name, leaf), name)
        if name.startswith("opt_state/"):
            source = optimizer_leaf(name, leaves)
            want = 8 if source == "step" else contents.leaves[source]
            np.testing.assert_array_equal(leaf, want, name)
    assert (tmp_path / IMPORTED).is_file()


def test_weights_without_optimizer_and_step(official, tmp_path, caplog):
    contents, path = official("moco")
    with caplog.at_level(logging.INFO, "moco_jax"):
        state, leaves = start(small_config(), path, tmp_path, init_part="weights")
    assert int(state.step) == 0
    for name, leaf in leaves.items():
        if name.startswith("opt_state/"):
            assert not leaf.any()
        elif name.startswith(("params/", "method_state/")):
            np.testing.assert_array_equal(leaf, value(contents, name, leaf), name)
    assert "Taken: backbone, projector, key backbone, key projector, queue\n" in caplog.text
    assert "Not used: optimizer" in caplog.text
    assert "from step 0" in caplog.text
    assert not (tmp_path / IMPORTED).exists()


def test_the_backbone_alone(official, tmp_path, caplog):
    contents, path = official("moco")
    with caplog.at_level(logging.INFO, "moco_jax"):
        _, leaves = start(small_config("moco_v3"), path, tmp_path, init_part="backbone")
    for name, leaf in leaves.items():
        source = name.replace("method_state/target/params/", "params/")
        source = source.replace("method_state/target/stats/", "method_state/stats/")
        if source.startswith(("params/backbone/", "method_state/stats/backbone/")):
            np.testing.assert_array_equal(leaf, value(contents, source, leaf), name)
    assert "Key backbone: a copy of the query encoder's" in caplog.text
    assert "Random as in a new run: projector, predictor, key projector, optimizer\n" in caplog.text
    assert "Not used: projector, key projector, queue, optimizer\n" in caplog.text


@pytest.mark.parametrize("to", ["torchvision", "transformers"])
def test_a_file_of_one_encoder_starts_both(to, tmp_path, caplog):
    contents = small_contents("moco")
    convert.write(tmp_path / "w.pth", contents, to)
    with caplog.at_level(logging.INFO, "moco_jax"):
        state, leaves = start(small_config(), tmp_path / "w.pth", tmp_path)
    assert int(state.step) == 0
    kernel = contents.leaves["params/backbone/layer4_1/conv2/kernel"]
    for name in ("params", "method_state/target/params"):
        np.testing.assert_array_equal(leaves[f"{name}/backbone/layer4_1/conv2/kernel"], kernel)
        projector = leaves[f"{name}/projector/fc1/kernel"]
        np.testing.assert_array_equal(projector, leaves["params/projector/fc1/kernel"])
    variance = leaves["method_state/target/stats/backbone/bn1/var"]
    assert variance.shape == (2, 2)
    np.testing.assert_array_equal(variance[0], variance[1])
    assert "Taken: backbone, key backbone\n" in caplog.text
    assert "Random as in a new run: projector, key projector, queue, optimizer\n" in caplog.text


def test_the_same_file_without_a_name_of_a_method_changes_nothing(tmp_path):
    c = small_config()
    x = experiment_of(c, "")
    got, want = first_state(x, tmp_path), experiment.fresh_state(x)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda c: c.model.resnet.update(width=1 / 16),
            CheckpointError,
            r"bn1/mean: float32\[2, 2\]",
        ),
        (lambda c: c.model.update(name="resnet34"), CheckpointError, "not in the checkpoint"),
        (lambda c: c.method.projector.update(layers=1), CheckpointError, "projector/fc2"),
        (lambda c: c.optim.update(name="lars"), CheckpointError, "state of optimizer 'sgd', not"),
        (
            lambda c: c.optim.update(freeze=("backbone/conv1",)),
            CheckpointError,
            "optimizer/trace/backbone/conv1/kernel: only in the checkpoint",
        ),
        (lambda c: c.update(init_part="backbon"), ValueError, "did you mean 'backbone'"),
        (lambda c: c.update(init="nothing"), FileNotFoundError, "no file or folder nothing"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message, official, tmp_path):
    _, path = official("moco")
    c = small_config()
    x = experiment_of(c, path)
    change(c)
    if c.init_part == "all" and c.init != "nothing":
        x = experiment_of(c, path)
    with pytest.raises(error, match=message):
        first_state(x, tmp_path)


def test_a_training_longer_than_the_run_is_refused(official, tmp_path):
    _, path = official("moco")
    x = experiment_of(small_config(), path)
    with pytest.raises(ValueError, match=r"stands at step 8, .* has 8 .* init_part='weights'"):
        first_state(x._replace(steps=8), tmp_path)


def vit_config(**vit):
    c = small_config("moco_v3", vit=True)
    c.model.vit.update(vit)
    return c


def vit_file(tmp_path, **vit):
    contents = small_contents("moco_v3", vit=True)
    contents.config.model.vit.update(vit)
    if vit.get("position") == "learned":
        table = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(np.float32)
        contents.leaves["params/backbone/pos_embed"] = table
    convert.write(tmp_path / "w.pth", contents, "timm")
    return tmp_path / "w.pth"


def test_a_learned_position_embedding_is_interpolated(tmp_path, caplog):
    c = vit_config(position="learned")
    c.data.image_size = 64
    path = vit_file(tmp_path, position="learned")
    with caplog.at_level(logging.INFO, "moco_jax"):
        _, leaves = start(c, path, tmp_path)
    assert "interpolated, from 2 x 2 patches to 4 x 4" in caplog.text
    assert leaves["params/backbone/pos_embed"].shape == (1, 17, 16)


def test_a_fixed_position_embedding_can_be_trained_from_there(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "moco_jax"):
        _, leaves = start(vit_config(position="learned"), vit_file(tmp_path), tmp_path)
    assert "fixed in the file, trained from here on" in caplog.text
    table = np.asarray(leaves["params/backbone/pos_embed"])
    np.testing.assert_array_equal(table, leaves["method_state/target/params/backbone/pos_embed"])
    assert not table[:, 0].any()
    assert table[:, 1:].any()


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"position": "learned"}, {}, "position embedding 'learned', 'sincos' in the run"),
        ({}, {"position": "none"}, "position embedding 'sincos', 'none' in the run"),
        ({}, {"heads": 4}, "the file says 2 attention heads, not 4"),
        ({}, {"pool": "avg_norm"}, "cls_token: only in the checkpoint"),
    ],
)
def test_another_vit_is_refused(there, here, message, tmp_path):
    path = vit_file(tmp_path, **there)
    with pytest.raises(CheckpointError, match=message):
        start(vit_config(**here), path, tmp_path)


def test_another_epsilon_of_layer_norm_is_said(tmp_path, caplog):
    start(vit_config(), vit_file(tmp_path, norm_eps=1e-12), tmp_path)
    told = "epsilon is 1e-12 in it and 1e-06 in the run; its own is --config.model.vit.norm_eps="
    assert told in caplog.text


def test_a_run_from_another_runs_checkpoint_ends_with_the_same_bits(tmp_path):
    c = tiny_config("v1", write_npz(tmp_path / "images.npz"))
    c.knn.every_epochs = 0.0
    c.model.vit.depth = 1
    assert loop.run(c, tmp_path / "whole") == 0
    want = _final(c, tmp_path / "whole")
    c.init = str(tmp_path / "whole" / "checkpoints" / "12")
    assert loop.run(c, tmp_path / "second") == 0
    jax.tree.map(np.testing.assert_array_equal, _final(c, tmp_path / "second"), want)

    # The workdir's own checkpoint comes first: the file is not even looked at.
    c.init = str(tmp_path / "gone")
    assert loop.run(c, tmp_path / "second") == 0
    with pytest.raises(FileNotFoundError):
        loop.run(c, tmp_path / "third")


def _final(c, workdir):
    store = Checkpoints(workdir, c.checkpoint)
    state = store.restore(experiment.abstract_state(experiment.build(c)))
    store.close()
    return state


def test_what_fits_is_taken_and_the_rest_stays_random(official, tmp_path, caplog):
    contents, path = official("moco")
    c = small_config()
    c.method.projector.update(layers=1)
    with caplog.at_level(logging.INFO, "moco_jax"):
        _, leaves = start(c, path, tmp_path, init_partial=True, init_part="weights")
    assert "Does not fit, and stays random:\n  params/projector/fc" in caplog.text
    kernel = "params/backbone/layer4_1/conv2/kernel"
    np.testing.assert_array_equal(leaves[kernel], contents.leaves[kernel])
    assert leaves["params/projector/fc1/kernel"].any()


def test_a_run_names_its_own_option(official, tmp_path):
    _, path = official("moco")
    tree = torchfile.read_zip(path)
    tensors = {n: t.numpy() for n, t in tree["state_dict"].items() if "encoder_q.bn1.bias" not in n}
    save_torch(tmp_path / "cut.pth.tar", {"state_dict": OrderedDict(tensors)})
    with pytest.raises(CheckpointError) as error:
        start(small_config(), tmp_path / "cut.pth.tar", tmp_path)
    assert str(error.value).endswith("\nconfig.init_partial=True takes what fits.")


@pytest.mark.parametrize("encoder", ["key", "query"])
def test_the_encoder_that_is_asked_for_is_taken_alone(encoder, official, tmp_path):
    contents, path = official("moco")
    _, leaves = start(small_config(), path, tmp_path, init_encoder=encoder)
    name = "backbone/layer4_1/conv2/kernel"
    source = {"query": "params", "key": "method_state/target/params"}[encoder]
    for where in ("params", "method_state/target/params"):
        np.testing.assert_array_equal(
            leaves[f"{where}/{name}"], contents.leaves[f"{source}/{name}"]
        )
