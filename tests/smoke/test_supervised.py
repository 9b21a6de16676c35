"""Linear probe and fine-tuning, as whole runs in this process and as users start them."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from moco_jax import checkpoint, convert, metrics, results
from moco_jax.errors import CheckpointError
from moco_jax.evals import make_watches
from moco_jax.protocols.heads import describe_head
from moco_jax.report import rundir
from moco_jax.training import experiment, loop
from moco_jax.training.context import make_context
from moco_jax.training.features_once import with_features
from moco_jax.training.first_state import first_state
from tests.conftest import CACHE
from tests.probes import sweep, train
from tests.tiny import finetune_config

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The source, and the workdir of a short pre-training with BatchNorm in groups."""
    return train(tmp_path_factory.mktemp("trained"))


def steps_of(workdir):
    return sorted((workdir / "checkpoints").glob("*"), key=lambda path: int(path.name))


def final(workdir):
    """The arrays of the newest checkpoint."""
    return checkpoint.read(steps_of(workdir)[-1])[0]


@pytest.fixture(scope="module", params=[True, False], ids=["images", "features"])
def probed(request, trained, tmp_path_factory):
    """The config of a probe and its workdir."""
    c = sweep(*trained, augment=request.param)
    workdir = tmp_path_factory.mktemp("probed") / "run"
    assert loop.run(c, workdir) == 0
    return c, workdir


def test_a_probe_changes_nothing_of_the_backbone(trained, probed):
    before, after = final(trained[1]), final(probed[1])
    params = [n for n in after if n.startswith("params/backbone/")]
    assert len(params) == len([n for n in before if n.startswith("params/backbone/")]) > 20
    for name in params:
        np.testing.assert_array_equal(after[name], before[name])
    stats = [n for n in after if n.startswith("method_state/stats/backbone/")]
    assert len(stats) == 10
    for name in stats:
        mean = before[name].astype(np.float64).mean(0, keepdims=True)
        np.testing.assert_array_equal(after[name], mean.astype(np.float32))
    kernel = "params/classifier/kernel"
    assert after[kernel].shape == (6, 16, 3)
    assert all("backbone" not in name for name in after if name.startswith("opt_state/"))


def test_a_probe_reports_what_it_measured(probed):
    c, workdir = probed
    (record,) = results.read(workdir)
    assert (record["evaluation"], record["examples"], record["seed"]) == ("linear", 36, 0)
    settings = record["settings"]
    assert (settings["init"], settings["held_out"], len(settings["sweep"])) == (c.init, 16, 6)
    row = metrics.read(workdir)[-1]
    chosen = settings["sweep"][row["head"]]
    assert chosen["held_out_top1"] == max(head["held_out_top1"] for head in settings["sweep"])
    assert row["test_top1"] == record["metrics"]["top1"]
    assert row["test_top1"] > (0.25 if c.supervised.augment else 0.5)  # crops often miss the bar
    assert "test_top5" not in row
    watched = [r["step"] for r in metrics.read(workdir) if "test_top1" in r]
    assert watched == list(range(8, 4 * int(c.epochs) + 1, 8))


def test_the_report_is_of_the_images_also_on_features(probed):
    """And it knows the step's compilation, which it is told when the run begins."""
    (run,) = rundir.read_all([probed[1]])
    assert run.facts["data"]["channels"] == 1
    assert run.facts["program"]["compile_seconds"] > 0


def test_the_accuracy_is_that_of_the_converted_head(probed):
    """What convert takes from the workdir gives the logits of that head, BatchNorm folded in."""
    c, workdir = probed
    contents = convert.read(workdir)
    head = metrics.read(workdir)[-1]["head"]
    assert contents.config.optim.base_lr == describe_head(c, head)["base_lr"]
    kernel, bias = (contents.leaves[f"params/classifier/{n}"] for n in ("kernel", "bias"))
    x = experiment.build(c)
    state = checkpoint.Checkpoints(workdir, c.checkpoint).restore(experiment.abstract_state(x))
    with experiment.eval_batches(x, x.data.test) as batches:
        batch = next(batches)
    images = experiment.eval_images(x, batch)
    features, _ = jax.jit(x.task.encode)(state.params, state.method_state, images)
    logits = x.task.classify(state.params, state.method_state, features)[head]
    np.testing.assert_allclose(np.asarray(features) @ kernel + bias, logits, rtol=1e-4, atol=1e-4)
    convert.write(workdir.parent / "probe.pth.tar", contents, "lincls")
    back = convert.read(workdir.parent / "probe.pth.tar").leaves
    np.testing.assert_array_equal(back["params/classifier/kernel"], kernel)
    np.testing.assert_array_equal(
        back["params/backbone/norm/scale"], final(workdir)["params/backbone/norm/scale"]
    )


def test_a_probe_resumes_with_the_same_bits(probed, tmp_path):
    c, workdir = probed
    shutil.copytree(workdir, tmp_path / "run")
    whole = final(workdir)
    shutil.rmtree(steps_of(tmp_path / "run")[-1])
    features = [p.stat().st_mtime_ns for p in (tmp_path / "run").glob("features/*/*")]
    assert loop.run(c, tmp_path / "run") == 0
    again = final(tmp_path / "run")
    assert whole.keys() == again.keys()
    for name, leaf in whole.items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)
    (record,), (first,) = results.read(tmp_path / "run"), results.read(workdir)
    assert record["metrics"] == first["metrics"]
    assert features == [p.stat().st_mtime_ns for p in (tmp_path / "run").glob("features/*/*")]
    assert len(features) == (0 if c.supervised.augment else 3)


def test_another_network_in_the_same_workdir_is_refused(trained, probed, tmp_path):
    c, workdir = probed
    c = c.copy_and_resolve_references()
    c.init = ""
    with pytest.raises(CheckpointError, match=r"-init = .*\n.*init = ''"):
        loop.run(c, workdir)


def test_features_of_another_network_are_made_anew(trained, tmp_path):
    source, init = trained
    c = sweep(source, init, augment=False)
    for name in (str(init), ""):
        c.init = name
        x = experiment.build(c)
        state = first_state(x, tmp_path)
        found = with_features(x, state, tmp_path)
        assert found.data.train.images.shape == (64, 16)
        assert found.held_out.images.shape == (16, 16)
        np.testing.assert_array_equal(found.data.train.labels, x.data.train.labels)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_a_backbone_that_changes_is_an_error(trained, tmp_path, monkeypatch):
    source, init = trained
    c = sweep(source, init)
    x = experiment.build(c)
    _, check, _ = make_watches(make_context(x, tmp_path), x.steps_per_epoch)
    state = first_state(x, tmp_path)
    check.measure(state, 0)
    check.measure(state, x.steps)
    stats = state.method_state["stats"]
    stats["backbone"]["norm"]["mean"] = stats["backbone"]["norm"]["mean"].at[0, 3].add(1e-7)
    with pytest.raises(CheckpointError, match=r"backbone changed.*norm/mean \(1 of"):
        check.measure(state, x.steps)


def test_raw_pixels_are_probed_by_the_same_command(trained, tmp_path):
    c = sweep(trained[0], "", augment=False)
    c.model.name = "pixels"
    assert loop.run(c, tmp_path / "run") == 0
    assert metrics.read(tmp_path / "run")[-1]["test_top1"] > 0.9
    assert final(tmp_path / "run")["params/classifier/kernel"].shape == (6, 144, 3)


def write_folder(root):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10)):
        for i in range(count):
            pixels = rng.integers(0, 120, (72, 80, 3), dtype=np.uint8)
            pixels[:, :, i % 2] += 100
            path = root / part / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return f"folder:{root}"


def test_fine_tuning_on_encoded_images_with_few_labels(tmp_path):
    """All of DeiT's recipe, one cropped view, half of the labels."""
    c = finetune_config(write_folder(tmp_path / "images"))
    c.data.label_share = 0.5
    x = experiment.build(c)
    assert len(x.data.train) == 20
    with experiment.train_batches(x, 0) as batches:
        assert [crop.shape for crop in next(batches)["crops"]] == [(16, 12, 12, 3)]
    assert loop.run(c, tmp_path / "run") == 0
    (record,) = results.read(tmp_path / "run")
    assert (record["evaluation"], record["examples"]) == ("finetune", 10)
    assert record["settings"]["label_share"] == 0.5
    assert record["metrics"].keys() == {"top1"}
    contents = convert.read(tmp_path / "run")
    assert contents.leaves["params/classifier/kernel"].shape == (16, 2)
    rows = metrics.read(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) for row in rows[1:])
    assert rows[-1]["grad_norm_first"] > 0


def test_fine_tuning_starts_from_fixed_positions_and_moves_them(trained, tmp_path):
    source, init = trained
    c = finetune_config(source)
    c.model.vit.norm = "batch"
    c.init, c.epochs = str(init), 0.4  # the first step has rate 0
    c.data.view1.order = ("flip",)  # compiles sooner
    x = experiment.build(c)
    state = first_state(x, tmp_path)
    position = np.asarray(state.params["backbone"]["pos_embed"])
    assert position.shape == (1, 10, 16)
    assert (position[0, 0] == 0).all()
    assert loop.run(c, tmp_path / "run") == 0
    assert (final(tmp_path / "run")["params/backbone/pos_embed"] != position).any()


@pytest.mark.processes
def test_the_command_probes_and_fine_tunes(trained, tmp_path):
    """Two devices, the recipes of configs/, on tiny images and a tiny network."""
    source, init = trained
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    }
    tiny = ("--config.model.name=vit_tiny", "--config.model.vit.patch=4",
            "--config.model.vit.width=16", "--config.model.vit.depth=2",
            "--config.model.vit.heads=2", "--config.model.vit.norm=batch",
            f"--config.data.source={source}", "--config.data.batch_size=16",
            "--config.data.image_size=12", f"--config.init={init}", "--config.epochs=1",
            "--config.log.tensorboard=False")  # fmt: skip
    for name, title in (("linear", "Linear probe: top1"), ("finetune", "Fine-tuning: top1")):
        command = [sys.executable, "-m", "moco_jax.main", f"--config=configs/{name}.py:demo"]
        done = subprocess.run(
            [*command, *tiny, f"--workdir={tmp_path / name}"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert title in done.stderr
        assert ("Backbone unchanged: the checksums of its" in done.stderr) == (name == "linear")
