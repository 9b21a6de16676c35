"""Whole runs of detectors on shapes: they learn them, and resume as if never stopped."""

import json
import shutil

import jax
import numpy as np
import pytest
from pycocotools.coco import COCO

from moco_jax import checkpoint, metrics, results
from moco_jax.commands import detect
from moco_jax.cost import rehearsal
from moco_jax.detection import masks, measured, protocol
from moco_jax.errors import CheckpointError
from moco_jax.training import experiment, loop
from tests import annotations, shapes

pytestmark = pytest.mark.detection


@pytest.fixture
def one_device(monkeypatch):
    make_mesh = experiment.meshes.make_mesh
    monkeypatch.setattr(
        experiment.meshes, "make_mesh", lambda **options: make_mesh(jax.devices()[:1], **options)
    )


def a_config(train, test, **options):
    c = shapes.tiny_config(
        train, masks=True, canvas=(96, 96), sides=(96,), test_side=96, longest=96, channels=16,
        features=64, samples=64, proposals=(200, 60), test_proposals=(100, 60), **options,
    )  # fmt: skip
    c.evals.source, c.model.resnet.width = test, 1 / 4
    return c


def learn(x, by_heart):
    """The state after all steps, on the run's batches or on the first of them alone."""
    state = experiment.fresh_state(x)
    with experiment.train_batches(x, 0) as stream:
        batch = stream.get()
        # As programs compile it: this is no test that mostly compiles.
        options = {"xla_backend_optimization_level": 3}
        step = experiment.make_step(x).lower(state, batch).compile(compiler_options=options)
        for _ in range(x.steps):
            state, row = step(state, batch)
            batch = batch if by_heart else stream.get()
    assert row["skipped"] == 0
    return state


def found_by(x, state):
    statistics = measured.make_precise(x, x.own.batches)(state, x.steps)
    return measured.make_detect(x)(state, statistics)


@pytest.mark.parametrize("network", ["fpn", "c4"])
def test_a_batch_is_learnt_by_heart(network, tmp_path, one_device):
    """Boxes, masks and, on a pyramid, keypoints of four images, on one device."""
    fpn, data = network == "fpn", shapes.write(tmp_path)
    c = a_config(data, data, network=network, keypoints=fpn, mirrored=0.0, precise_batches=1)
    c.data.update(batch_size=4, eval_batch_size=4)
    c.epochs, c.optim.base_lr, c.optim.warmup_epochs = 500.0, 0.05 * 256 / 4, 20.0
    c.optim.update(schedule="step", step_epochs=(400.0,))
    x = protocol.build(c)
    scores = measured.precisions(x, found_by(x, learn(x, by_heart=True)))
    kinds = ("", "masks_", "keypoints_") if fpn else ("", "masks_")
    for kind in kinds:
        assert [scores[f"{kind}{name}"] for name in ("AP50", "AP75")] == [pytest.approx(1)] * 2
        assert scores[f"{kind}AP"] > 0.9


def test_masks_of_images_that_it_has_not_seen(tmp_path, one_device):
    """128 images to learn from, 32 others to be tested on; 400 steps."""
    train, test = (
        shapes.write(tmp_path / f"{seed}", count, seed) for count, seed in ((128, 0), (32, 1))
    )
    c = a_config(train, test, precise_batches=8)
    c.epochs, c.optim.base_lr = 25.0, 0.05 * 256 / 8
    x = protocol.build(c)
    overlaps = overlaps_of(COCO(test.split(":")[1]), x, found_by(x, learn(x, by_heart=False)))
    print(f"mean IoU {np.mean(overlaps):.3f} of {len(overlaps)} objects, least {min(overlaps):.3f}")
    assert len(overlaps) == 80
    assert np.mean(overlaps) > 0.8


def overlaps_of(truth, x, found):
    """For each true object the IoU of its mask with the best one of its class and a score of 0.5;
    0 where there is none. pycocotools draws the true ones."""
    out = []
    for image, one in zip(x.data.test.images, found):
        sure = [(masks.decode(mask), kind) for mask, kind, score
                in zip(one.masks, one.classes, one.scores) if score >= 0.5]  # fmt: skip
        for entry in truth.loadAnns(truth.getAnnIds(image.number)):
            own, number = truth.annToMask(entry) > 0, entry["category_id"] - 1
            pairs = [(mask & own, mask | own) for mask, kind in sure if kind == number]
            out.append(max((both.sum() / either.sum() for both, either in pairs), default=0.0))
    return out


def test_a_run_resumes_bit_by_bit(tmp_path):
    c, run = shapes.tiny_config(shapes.write(tmp_path / "data", 16)), tmp_path / "run"
    c.epochs = 3.0  # 6 steps, saved at each second one
    assert loop.run(c, run, build=protocol.build) == 0
    rows = metrics.read(run)
    assert {"loss_objectness", "loss_proposals", "loss_classes", "loss_boxes"} <= rows[-2].keys()
    assert "AP50" in rows[-1]
    (result,) = results.read(run)
    assert (result["evaluation"], result["examples"]) == ("detection", 16)
    assert (run / "report.html").exists()
    last, _ = checkpoint.read(run / "checkpoints" / "6")
    shutil.rmtree(run / "checkpoints" / "6")
    assert loop.run(c, run, build=protocol.build) == 0
    again, _ = checkpoint.read(run / "checkpoints" / "6")
    assert checkpoint.checksums_of(again) == checkpoint.checksums_of(last)
    assert measures(metrics.read(run)[-1]) == measures(rows[-1])
    c.detection.samples = 16
    with pytest.raises(CheckpointError, match=r"detection\.samples = 16"):
        loop.run(c, run, build=protocol.build)


def test_several_canvases_resume_bit_by_bit(tmp_path, monkeypatch, caplog):
    """12 wide images and 8 tall ones; steps 3 to 6, of both canvases, are done twice."""
    names, run = "abcdefghijklmnopqrst", tmp_path / "run"
    annotations.voc(tmp_path / "data", names)
    for name in names[:8]:
        annotations.picture(tmp_path / "data" / "JPEGImages" / f"{name}.jpg", 60, 40)
    c = shapes.tiny_config(
        f"voc:{tmp_path / 'data'}", canvas=(64, 96), more_canvases=((96, 64),), longest=96
    )
    c.epochs, c.checkpoint.keep_last = 2.4, 3  # 6 steps, saved at each second one
    with protocol.build(c).own.batches(2) as stream:
        assert {stream.get()["image"].shape[1:3] for _ in range(4)} == {(64, 96), (96, 64)}
    caplog.set_level("INFO")
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.0)
    account = "\n".join(rehearsal.rehearse(c, run, protocol.build))
    assert "Steps were timed on one canvas alone, " in account
    assert loop.run(c, run, build=protocol.build) == 0
    assert caplog.text.count("Compiled the step for 2 canvases in") == 2
    row, (last, _) = metrics.read(run)[-1], checkpoint.read(run / "checkpoints" / "6")
    assert (row["skipped"], results.read(run)[0]["examples"]) == (0, 20)
    assert "AP50" in row
    for step in "46":
        shutil.rmtree(run / "checkpoints" / step)
    assert loop.run(c, run, build=protocol.build) == 0
    again, _ = checkpoint.read(run / "checkpoints" / "6")
    assert checkpoint.checksums_of(again) == checkpoint.checksums_of(last)
    assert measures(metrics.read(run)[-1]) == measures(row)


def measures(row):
    return {name: value for name, value in row.items() if name.startswith(("loss", "AP"))}


def test_a_run_on_vocs_form_detects(tmp_path, monkeypatch):
    lists = {"trainval": "abcdefgh", "test": "ij"}
    annotations.voc(tmp_path / "data", "abcdefghij", lists)
    c = shapes.tiny_config(f"voc:{tmp_path / 'data'}")
    c.evals.source = ""
    c.epochs = 2.0
    assert loop.run(c, tmp_path / "run", build=protocol.build) == 0
    row = metrics.read(tmp_path / "run")[-1]
    assert row["step"] == 2
    assert 0 <= row["AP"] <= 1
    assert '<section id="detections">' in (tmp_path / "run" / "report.html").read_text()
    flags = {"checkpoint": "run", "data": "folder:data/JPEGImages", "out": "found"}
    monkeypatch.chdir(tmp_path)
    assert detect.main([f"--{name}={value}" for name, value in flags.items()]) == 0
    entries = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {entry["category_name"] for entry in entries} <= {"cat", "dog"}
    assert len(list((tmp_path / "found" / "pictures").iterdir())) == 10
