"""Linear probe and fine-tuning on wrong input: one clear error each, early."""

import shutil

import numpy as np
import pytest

from configs import linear
from moco_jax import checkpoint
from moco_jax.cost import rehearsal
from moco_jax.errors import CheckpointError, MissingError
from moco_jax.training import experiment, loop
from moco_jax.training.first_state import first_state
from tests.probes import sweep, train
from tests.tiny import finetune_config, probe_config, tiny_config, write_npz
from tests.workdir import write_workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The source, and the workdir of a short pre-training with BatchNorm in groups."""
    return train(tmp_path_factory.mktemp("trained"))


def check(c, message, error=ValueError):
    with pytest.raises(error, match=message):
        experiment.build(c)


def test_no_labels(tmp_path):
    c = probe_config(write_npz(tmp_path / "x.npz", labels=False, test_images=4))
    check(c, "needs labelled training images")


def test_no_test_images(tmp_path):
    check(probe_config(write_npz(tmp_path / "x.npz")), "needs labelled test images")


def test_options_that_have_no_meaning(trained):
    for change, message in (
        ({"train_backbone": True, "lrs": (1.0,)}, r"lrs=\(1.0,\): expected \(\)"),
        ({"train_backbone": True, "batch_norm": True}, "batch_norm=True: expected False"),
        ({"train_backbone": True, "augment": False}, "augment=False: expected True"),
        ({"augment": False, "mixup": 0.8}, "mixup=0.8: expected 0.0"),
        ({"lrs": (0.0,)}, r"lrs=\(0.0,\): expected values, each above 0"),
        ({"label_smoothing": 1.5}, r"label_smoothing=1.5: expected a value in \[0, 1\]"),
        ({"cutmix": -1.0}, "cutmix=-1.0: expected 0 or more"),
        ({"lrs": (1.0,), "held_out": 1.0}, "held_out=1.0: expected above 0"),
    ):
        c = probe_config(trained[0])
        c.supervised.update(change)
        check(c, message)


def test_slices_of_a_batch(trained):
    c = probe_config(trained[0])
    c.accumulate = 2
    check(c, "accumulate=2: expected 1 with protocol='supervised'")


def test_pixels_cannot_be_fine_tuned(trained):
    c = finetune_config(trained[0])
    c.model.name = "pixels"
    check(c, "model.name='pixels' has nothing that fine-tuning trains")


def test_a_checkpoint_of_another_architecture(trained, tmp_path):
    source, init = trained
    c = sweep(source, init)
    c.model.vit.width = 32
    with pytest.raises(CheckpointError, match=r"(?s)another network.*16\].*32\]"):
        loop.run(c, tmp_path / "run")


@pytest.mark.parametrize("begin", [loop.run, rehearsal.rehearse])
def test_a_checkpoint_that_is_not_there_is_said_before_the_images_are_read(begin, tmp_path):
    """Of a recipe that takes its images from there: its own are no one's."""
    c = linear.get_config("v2_r50")
    c.init = str(tmp_path / "mien")
    (tmp_path / "mine").mkdir()
    with pytest.raises(MissingError, match=r"mien does not exist .* did you mean '.*/mine'"):
        begin(c, tmp_path / "run")


def test_a_classifier_of_another_number_of_classes_is_made_anew(trained, tmp_path, caplog):
    source, _ = trained
    c = finetune_config(source)
    c.epochs, c.data.view1.order = 0.2, ("flip",)
    write_workdir(tmp_path / "three", c)
    with np.load(source.removeprefix("npz:")) as arrays:
        arrays = dict(arrays)
    arrays["labels"][0] = 3
    np.savez(tmp_path / "four.npz", **arrays)
    c.init, c.init_part = str(tmp_path / "three"), "weights"
    c.data.source = f"npz:{tmp_path}/four.npz"
    with caplog.at_level("INFO", "moco_jax"):
        first_state(experiment.build(c), tmp_path)
    assert "classifier/bias: shape (3,) in the file, (4,) in the run: made anew" in caplog.text
    assert "Taken: backbone\n" in caplog.text


def test_test_labels_that_are_no_class(trained, tmp_path):
    with np.load(trained[0].removeprefix("npz:")) as arrays:
        arrays = dict(arrays)
    arrays["test_labels"][5] = 7
    np.savez(tmp_path / "x.npz", **arrays)
    c = probe_config(f"npz:{tmp_path}/x.npz")
    with pytest.raises(ValueError, match=r"1 of the evaluated images have none of the 3"):
        loop.run(c, tmp_path / "run")


@pytest.mark.parametrize("augment", [True, False])
def test_features_that_are_not_finite(trained, tmp_path, augment, monkeypatch):
    source, init = trained
    shutil.copytree(init, tmp_path / "init")
    x = experiment.build(tiny_config("v1", source))
    store = checkpoint.Checkpoints(tmp_path / "init", x.config.checkpoint)
    state = store.restore(experiment.abstract_state(x))
    scale = state.params["backbone"]["norm"]["scale"]
    state.params["backbone"]["norm"]["scale"] = scale.at[2].set(np.nan)
    broken = checkpoint.Checkpoints(tmp_path / "broken", x.config.checkpoint)
    broken.save(5, state, experiment.recorded(x))
    broken.wait()
    c = sweep(source, tmp_path / "broken", augment)
    with pytest.raises(ValueError, match=r"not finite|NaN"):
        loop.run(c, tmp_path / "run")
