"""Whole runs of detectors on shapes: they learn them by heart, and resume as if never stopped."""

import json
import shutil

import jax
import pytest

from moco_jax import checkpoint, metrics, results
from moco_jax.commands import detect
from moco_jax.detection import measured, protocol
from moco_jax.errors import CheckpointError
from moco_jax.training import experiment, loop
from tests import annotations, shapes

pytestmark = pytest.mark.detection


def learn(x, steps):
    """The state after so many steps on one batch."""
    state = experiment.fresh_state(x)
    with experiment.train_batches(x, 0) as stream:
        batch = stream.get()
    # As programs compile it: this is no test that mostly compiles.
    options = {"xla_backend_optimization_level": 3}
    step = experiment.make_step(x).lower(state, batch).compile(compiler_options=options)
    for _ in range(steps):
        state, row = step(state, batch)
    return state, row


@pytest.mark.parametrize("network", ["fpn", "c4"])
def test_a_batch_is_learnt_by_heart(network, tmp_path, monkeypatch):
    """Boxes, masks and, on a pyramid, keypoints of four images, on one device."""
    make_mesh = experiment.meshes.make_mesh
    monkeypatch.setattr(
        experiment.meshes, "make_mesh", lambda **options: make_mesh(jax.devices()[:1], **options)
    )
    fpn = network == "fpn"
    c = shapes.tiny_config(
        shapes.write(tmp_path), network=network, masks=True, keypoints=fpn, canvas=(96, 96),
        sides=(96,), test_side=96, longest=96, mirrored=0.0, channels=16, features=64,
        samples=64, proposals=(200, 60), test_proposals=(100, 60), precise_batches=1,
    )  # fmt: skip
    c.model.resnet.width = 1 / 4
    c.data.update(batch_size=4, eval_batch_size=4)
    c.epochs, c.optim.base_lr, c.optim.warmup_epochs = 500.0, 0.05 * 256 / 4, 20.0
    c.optim.update(schedule="step", step_epochs=(400.0,))
    x = protocol.build(c)
    state, row = learn(x, x.steps)
    assert row["skipped"] == 0
    found = measured.make_detect(x)(state, measured.make_precise(x, x.own.batches)(state, 0))
    scores = measured.precisions(x, found)
    kinds = ("", "masks_", "keypoints_") if fpn else ("", "masks_")
    for kind in kinds:
        assert [scores[f"{kind}{name}"] for name in ("AP50", "AP75")] == [pytest.approx(1)] * 2
        assert scores[f"{kind}AP"] > 0.9


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
    one, other = (row for row in (rows[-1], metrics.read(run)[-1]))
    assert {k: v for k, v in one.items() if k.startswith(("loss", "AP"))} == {
        k: v for k, v in other.items() if k.startswith(("loss", "AP"))
    }
    c.detection.samples = 16
    with pytest.raises(CheckpointError, match=r"detection\.samples = 16"):
        loop.run(c, run, build=protocol.build)


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
