"""The command that detects: what it writes of a folder, and what it refuses."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from moco_jax import checkpoint, config
from moco_jax.commands import detect
from moco_jax.commands.detect import main
from moco_jax.data.formats import EXTENSIONS
from moco_jax.detection import inference, task
from moco_jax.detection.checkpointed import load
from moco_jax.detection.unannotated import open_unannotated
from moco_jax.errors import InputError, MissingError
from tests import annotations, encoded


def a_config():
    c = config.default()
    c.protocol, c.model.name, c.model.resnet.width = "detection", "resnet18", 1 / 16
    c.detection.update(network="c4", masks=True, channels=4, canvas=(64, 64), test_side=48,
                       longest=64, test_proposals=(20, 8))  # fmt: skip
    c.data.eval_batch_size = 16
    return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a detector whose weights are random: it finds something on any image."""
    c, rng = a_config(), np.random.default_rng(0)
    params, state = jax.eval_shape(task.make(c, 3, 0).init, jax.random.key(0))
    one = lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype)  # noqa: E731
    state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)
    tree = {"params": jax.tree.map(one, params), "method_state": state, "step": np.int32(7),
            "skipped": np.zeros(2, np.int32)}  # fmt: skip
    tree = jax.tree.map(jax.numpy.asarray, tree)
    found = {"found": {"classes": ["cat", "dog", "ant"], "category_ids": [4, 9, 2]}}
    path = tmp_path_factory.mktemp("runs") / "run"
    with contextlib.closing(checkpoint.Checkpoints(path, c.checkpoint)) as store:
        store.save(7, tree, config.as_json(c) | found)
        store.wait()
    return path


def images(root):
    for i, name in enumerate(("b.png", "deep/a.jpg", "c.jpg")):
        annotations.picture(root / name, 40 + i, 60, seed=i)
    (root / "d.jpg").write_bytes(b"no image")
    whole = (root / "c.jpg").read_bytes()
    (root / "c.jpg").write_bytes(whole[: len(whole) // 2])  # its head is good
    (root / "notes.txt").write_text("none")
    return root


def test_a_folder(workdir, tmp_path, caplog):
    caplog.set_level("INFO", "moco_jax")
    root, out = images(tmp_path / "photos"), tmp_path / "out"
    flags = {"checkpoint": workdir, "data": f"folder:{root}", "out": out, "score": 0.1}
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 0
    assert "resnet18; query encoder, detector of boxes, masks" in caplog.text
    assert "left out an image that cannot be read: d.jpg: " in caplog.text
    assert "skipped an image that cannot be read: c.jpg: " in caplog.text
    entries = json.loads((out / "detections.json").read_text())
    assert {(e["file_name"], e["image_id"]) for e in entries} == {("b.png", 1), ("deep/a.jpg", 3)}
    names = {4: "cat", 9: "dog", 2: "ant"}
    for e in entries:
        assert names[e["category_id"]] == e["category_name"]
        x, y, width, height = e["bbox"]
        assert -1e-3 <= x <= x + width <= 60 + 1e-3
        assert -1e-3 <= y <= y + height <= 42
        assert e["score"] > inference.final.SCORE
        assert e["segmentation"]["size"] == [40 if e["image_id"] == 1 else 41, 60]
    assert sorted(p.name for p in (out / "pictures").rglob("*.*")) == ["a.jpg", "b.png"]
    drawn = np.asarray(Image.open(out / "pictures" / "b.png"))
    assert drawn.shape == (40, 60, 3)
    assert (drawn != np.asarray(Image.open(root / "b.png"))).any()


def test_the_detector_is_that_of_its_run(workdir):
    trained = load(workdir)
    assert (trained.classes, trained.categories) == (("cat", "dog", "ant"), (4, 9, 2))
    assert trained.framing.canvas == (64, 64)
    assert trained.name.endswith("run, step 7")


@pytest.mark.parametrize("extension", [*EXTENSIONS, ".JPG", ".unknown"])
def test_every_kind_of_image_is_drawn_into(extension):
    pixels = encoded.smooth(24, 32)
    written = Image.open(io.BytesIO(detect.encoded(pixels, f"a.b{extension}")))
    assert abs(np.asarray(written.convert("RGB")).astype(int) - pixels).mean() < 12  # GIF's palette


def refused(workdir, tmp_path, capsys, **flags):
    root = images(tmp_path / "photos")
    given = {"checkpoint": workdir, "data": f"folder:{root}", "out": tmp_path / "out"} | flags
    assert main([f"--{name}={value}" for name, value in given.items()]) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"score": 1.5}, "--score=1.5: expected 0 to 1"),
        ({"data": "voc:x"}, "--data='voc' is not one of folder"),
        ({"data": "folder:"}, "expected folder:PATH"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"batch_size": 0}, "--batch_size=0"),
    ],
)
def test_what_is_refused(flags, said, workdir, tmp_path, capsys):
    assert said in refused(workdir, tmp_path, capsys, **flags)


def test_folders_that_lie_in_one_another_are_refused(workdir, tmp_path, capsys):
    for out in (tmp_path / "photos", tmp_path / "photos" / "found", tmp_path):
        assert "lie in one another" in refused(workdir, tmp_path, capsys, out=out)


def test_a_checkpoint_that_is_no_detector(workdir, tmp_path, capsys):
    c = config.default()
    with contextlib.closing(checkpoint.Checkpoints(tmp_path / "other", c.checkpoint)) as store:
        store.save(1, {"step": jax.numpy.int32(1)}, config.as_json(c))
        store.wait()
    said = refused(workdir, tmp_path, capsys, checkpoint=tmp_path / "other")
    assert "holds no detector: it is a pretraining run of resnet50" in said
    assert "protocol='detection'" in said


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InputError, match=r"no image that can be read .*\.txt files: 1"):
        open_unannotated(f"folder:{tmp_path}", 1000)
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(InputError, match=r"cannot be read: 1 \(a.jpg\)"):
        open_unannotated(f"folder:{tmp_path}", 1000)
    with pytest.raises(InputError, match="is a file"):
        open_unannotated(f"folder:{tmp_path / 'a.jpg'}", 1000)
    with pytest.raises(MissingError, match="does not exist"):
        open_unannotated(f"folder:{tmp_path / 'b'}", 1000)
