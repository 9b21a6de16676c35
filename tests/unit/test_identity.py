"""Which run a checkpoint belongs to: backend, dtype, images wherever they lie, chosen head."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

import moco_jax
from moco_jax import checkpoint, config, convert
from moco_jax.data import fingerprint, pipeline
from moco_jax.errors import CheckpointError
from moco_jax.identity import refuse_changes
from moco_jax.training import experiment
from tests.tiny import probe_config, tiny_config, write_npz

FOUND = {"backend": "gpu", "dtype": "bfloat16", "images": {"train": "80 images, a"}}


def saved(source="folder:/old", found=FOUND, **change):
    c = config.default()
    c.data.source = source
    c.update_from_flattened_dict(change)
    return config.as_json(c) | ({"found": found} if found else {})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"backend": "cpu"}, r"-found.backend = 'gpu'\n\+found.backend = 'cpu'"),
        ({"dtype": "float32"}, r"-found.dtype = 'bfloat16'\n(.*\n)*\+found.dtype = 'float32'"),
        ({"images": {"train": "81 images, b"}}, r"\+found.images.train = '81 images, b'"),
        ({"images": FOUND["images"] | {"test": "9 images, c"}}, r"\+found.images.test = '9 im"),
    ],
)
def test_what_auto_became_and_the_images_count(change, line):
    current = saved(found=FOUND | change)
    with pytest.raises(CheckpointError, match=line):
        refuse_changes(saved(), current)
    refuse_changes(saved(), current, allow=True)
    refuse_changes(saved(found=None), current)  # a checkpoint of before does not tell


def test_auto_and_what_it_became_are_the_same():
    refuse_changes(saved(), saved(**{"model.dtype": "bfloat16", "backend": "gpu"}))


def test_images_that_moved_are_the_same_data_and_that_is_said(caplog):
    with caplog.at_level(logging.INFO, "moco_jax"):
        refuse_changes(saved(), saved("folder:/new"))
    assert "The images are those of folder:/old: number, names and labels agree" in caplog.text
    with pytest.raises(CheckpointError, match=r"\+data.source = 'folder:/new'"):
        refuse_changes(saved(), saved("folder:/new", FOUND | {"images": {"train": "80, b"}}))
    with pytest.raises(CheckpointError, match=r"\+data.source = 'folder:/new'"):
        refuse_changes(saved(found=None), saved("folder:/new", None))


def digest(source):
    data = config.default().data
    data.update(source=source, array_gb=0.0)
    return fingerprint.fingerprint(pipeline.open_data(data))


def test_the_fingerprint_of_a_folder_is_that_of_names_and_classes(tmp_path):
    for name in ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "val/dog/7.png"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((80, 90, 3), np.uint8)).save(tmp_path / "a" / name)
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    first, second = (digest(f"folder:{tmp_path}/{name}") for name in ("a", "elsewhere/b"))
    assert first == second
    assert first["train"].startswith("3 images, ")
    assert first["test"].startswith("1 images, ")
    (tmp_path / "a" / "train" / "cat" / "2.png").rename(tmp_path / "a" / "train" / "dog" / "2.png")
    third = digest(f"folder:{tmp_path}/a")
    assert third["train"] != first["train"]
    assert third["test"] == first["test"]


@pytest.mark.parametrize("changed", ["images", "labels"])
def test_the_fingerprint_of_an_array_is_that_of_pixels_and_labels(changed, tmp_path):
    source = write_npz(tmp_path / "a.npz", test_images=3)
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    assert digest(source) == digest(f"npz:{tmp_path}/b.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    arrays[changed] = np.roll(arrays[changed], 1, 0)
    np.savez(tmp_path / "b.npz", **arrays)
    other = digest(f"npz:{tmp_path}/b.npz")
    assert other["train"] != digest(source)["train"]
    assert other["test"] == digest(source)["test"]


def write_state(workdir, c, position, change=lambda state: state, **found):
    x = experiment.build(c)
    store = checkpoint.Checkpoints(workdir, c.checkpoint)
    store.save(position, change(experiment.fresh_state(x)), experiment.recorded(x, **found))
    store.close()
    return x


def test_a_checkpoint_holds_what_was_found_and_the_head_that_was_chosen(tmp_path, caplog):
    c = probe_config(write_npz(tmp_path / "images.npz", test_images=36))
    c.model.name = "pixels"
    c.supervised.update(lrs=(0.5, 7.0), held_out=0.2)
    write_state(tmp_path / "run", c, 0, head=2)
    _, meta = checkpoint.read(tmp_path / "run" / "checkpoints" / "0")
    found = meta["config"]["found"]
    assert (found["backend"], found["dtype"], found["head"]) == ("cpu", "float32", 2)
    assert convert.read(tmp_path / "run").config.optim.base_lr == 7.0  # there are no metrics
    write_state(tmp_path / "unwatched", c, 0)
    assert convert.read(tmp_path / "unwatched").config.optim.base_lr == 3.0
    assert "no head had been chosen; taken is the protocol's own" in caplog.text


def test_names_say_batches_consumed_where_steps_were_skipped(tmp_path):
    c = tiny_config("v3", write_npz(tmp_path / "images.npz"))

    def skip(state):
        counts = state.step + 4, state.skipped + np.array([3, 0], np.int32)
        return state._replace(step=counts[0], skipped=counts[1])

    write_state(tmp_path / "run", c, 7, skip)
    contents = convert.read(tmp_path / "run")
    assert (contents.step, contents.position) == (4, 7)
    assert moco_jax.load(tmp_path / "run").step == "step 7"
    convert.convert(tmp_path / "run", tmp_path / "again", "ours")
    assert (tmp_path / "again" / "checkpoints" / "7").is_dir()
