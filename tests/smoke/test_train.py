"""Whole runs, in this process: what they write, how they resume, what they refuse."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from moco_jax import checkpoint, mesh, metrics, results
from moco_jax.errors import CheckpointError, InputError, TrainingDivergedError
from moco_jax.training import experiment, loop
from tests.tiny import RECIPES, tiny_config, write_npz

KEYS = {
    "step", "epoch", "loss", "loss_chance", "contrast_top1", "learning_rate", "ema", "grad_norm",
    "grad_norm_first", "grad_norm_first_max", "grad_norm_last", "feature_std",
    "images_per_second", "input_wait",
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz")


@pytest.mark.parametrize("method", ["v1", "v3"])
def test_run_writes_all_metrics_and_a_checkpoint(method, source, tmp_path, caplog):
    c = tiny_config(method, source)
    c.log.tensorboard = method == "v1"
    c.profile = "6:8" if method == "v1" else ""
    assert loop.run(c, tmp_path / "run") == 0
    rows = metrics.read(tmp_path / "run")
    assert rows[0]["step"] == 0
    assert {"knn_top1", "knn_top1_raw"} <= rows[0].keys()
    assert [row["step"] for row in rows[1:] if "loss" in row] == [5, 10, 15, 20]
    for row in rows[1:]:
        if "loss" in row:
            assert row.keys() >= KEYS
            assert all(np.isfinite(row[key]) for key in KEYS)
    assert rows[-1]["epoch"] == 4.0
    assert [row["step"] for row in rows if "knn_top1" in row] == [0, 10, 20]
    assert rows[0]["knn_top1_raw"] > 0.9, "the blobs are easy for raw pixels"
    assert 0 <= rows[-1]["input_wait"] <= 1
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0
    _, about = checkpoint.read(tmp_path / "run" / "checkpoints" / "20")
    assert len(about["config"]["data"]["mean"]) == 1, "found in the images"
    everything = results.read(tmp_path / "run")
    encoders = [r["settings"]["encoder"] for r in everything]
    assert list(dict.fromkeys(encoders)) == ["raw pixels", "untrained", "step 20"]
    knn = [r for r in everything if r["settings"]["encoder"] == "step 20"]
    pairs = [(r["settings"]["k"], r["settings"]["temperature"]) for r in knn]
    ks = (5, 10, 20, 79)  # all of the options, at most all images
    assert pairs == [(k, t) for k in ks for t in (0.07, 0.02, 0.2)], "the watched one first"
    assert knn[0]["metrics"] == {"top1": rows[-1]["knn_top1"]}
    assert (knn[0]["examples"], knn[0]["settings"]["encoder"]) == (80, "step 20")
    assert bool(list((tmp_path / "run").glob("tensorboard/*"))) == (method == "v1")
    assert (tmp_path / "run" / "profile.txt").exists() == (method == "v1")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "complete" in page
    assert page.count("<img ") == 8 * 3 + 10 * 17, "views and neighbours"
    assert 'id="map0"' in page
    assert not [r for r in caplog.records if "report" in r.getMessage() and r.levelname != "INFO"]


def test_a_finished_run_has_nothing_to_do(source, tmp_path):
    c = tiny_config("v3", source)
    loop.run(c, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert loop.run(c, tmp_path / "run") == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def losses(method, source, devices, fsdp):
    """The losses of 20 steps on so many simulated devices."""
    c = tiny_config(method, source)
    c.mesh.update(shard_queue=fsdp > 1)
    x = experiment.build(c)
    x = x._replace(mesh=mesh.make_mesh(jax.devices()[:devices], fsdp))
    state, step, out = experiment.fresh_state(x), experiment.make_step(x), []
    with experiment.train_batches(x, 0) as batches:
        for _ in range(20):
            state, row = step(state, batches.get())
            out.append(row["loss"])
    return np.array(jax.device_get(out))


@pytest.mark.parametrize("method", RECIPES)
def test_every_mesh_gives_the_same_losses(method, source, monkeypatch):
    """Sums run in another order: the first steps agree to 1e-5; the difference then grows as
    training amplifies it, so the last are held to 1e-3."""
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    one = losses(method, source, 1, 1)
    assert len(set(one.tolist())) == 20
    for fsdp in (1, 2) if method in ("v1", "v3") else (2,):
        many = losses(method, source, 8, fsdp)
        np.testing.assert_allclose(many[:5], one[:5], rtol=1e-5)
        np.testing.assert_allclose(many, one, rtol=1e-3)


def test_a_run_continues_on_another_mesh(source, tmp_path):
    c = tiny_config("v3", source)
    c.epochs, c.knn.every_epochs = 0.4, 0.0
    loop.run(c, tmp_path / "run")
    c.mesh.fsdp = 4
    assert loop.run(c, tmp_path / "run") == 0


def test_a_diverging_run_stops_and_keeps_the_good_checkpoint(source, tmp_path):
    c = tiny_config("v3", source)
    c.optim.update(base_lr=1e30, warmup_epochs=3.0)
    c.log.max_nonfinite = 3
    c.checkpoint.every_steps = 1
    with pytest.raises(TrainingDivergedError, match="not finite in 3 steps in a row"):
        loop.run(c, tmp_path / "run")
    assert "not finite in 3 steps in a row" in (tmp_path / "run" / "report.html").read_text()
    x = experiment.build(c)
    from moco_jax.checkpoint import Checkpoints

    state = Checkpoints(tmp_path / "run", c.checkpoint).restore(experiment.abstract_state(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_resuming_under_another_recipe_is_refused_with_a_diff(source, tmp_path):
    c = tiny_config("v3", source)
    loop.run(c, tmp_path / "run")
    c.method.temperature = 0.3
    with pytest.raises(
        CheckpointError, match=r"(?s)-method.temperature = 0.2.*\+method.temp.* 0.3"
    ):
        loop.run(c, tmp_path / "run")
    c.checkpoint.allow_changes = True
    assert loop.run(c, tmp_path / "run") == 0


def test_no_labels_means_no_knn(tmp_path):
    c = tiny_config("v3", write_npz(tmp_path / "images.npz", labels=False))
    c.epochs = 1.0
    assert loop.run(c, tmp_path / "run") == 0
    assert not any("knn_top1" in row for row in metrics.read(tmp_path / "run"))


@pytest.mark.parametrize("channels", [3, 5])
def test_other_channel_counts_train(channels, tmp_path):
    c = tiny_config("v3", write_npz(tmp_path / "images.npz", channels=channels))
    c.epochs = 0.4
    assert loop.run(c, tmp_path / "run") == 0


def test_symmetric_queue_method_trains(source, tmp_path):
    c = tiny_config("v1", source)
    c.method.symmetric = True
    c.epochs = 0.4
    assert loop.run(c, tmp_path / "run") == 0
    row = metrics.read(tmp_path / "run")[-1]
    np.testing.assert_allclose(row["loss_chance"], 2 * np.log(41))


class TestBadInput:
    def test_batch_not_divisible_by_the_devices(self, source):
        c = tiny_config("v3", source)
        c.data.batch_size = 20
        with pytest.raises(ValueError, match=r"batch_size=20 .* 8 devices; nearest: 16 or 24"):
            experiment.build(c)

    def test_batch_larger_than_the_data(self, source):
        c = tiny_config("v3", source)
        c.data.batch_size = 88
        with pytest.raises(ValueError, match=r"80 images, fewer than data.batch_size=88"):
            experiment.build(c)

    @pytest.mark.parametrize(
        ("method", "size", "text"),
        [
            ("v1", 64, "queue_size=64 is at or above the 80 training images"),
            ("v1", 63, ""),
            ("memory_bank", 81, "queue_size=81 rows are drawn from a bank of 80 images"),
            ("memory_bank", 80, ""),
            ("v3", 64, ""),
        ],
    )
    def test_a_queue_near_the_size_of_the_data_is_told(self, method, size, text, source):
        c = tiny_config(method, source)
        c.method.queue_size = size
        caution = experiment.build(c).task.caution
        assert text in caution
        assert bool(text) == bool(caution)

    def test_unknown_names_give_the_nearest(self, source):
        for path, bad, near in (
            ("model.name", "resnet5O", "resnet50"),
            ("method.name", "mocov3", "moco_v3"),
            ("optim.name", "adam", "adamw"),
            ("optim.schedule", "cosin", "cosine"),
            ("backend", "cuda", ""),
        ):
            c = tiny_config("v3", source)
            with c.unlocked():
                c.update_from_flattened_dict({path: bad})
            with pytest.raises(ValueError, match=f"{bad!r}.*{near}"):
                experiment.build(c)

    def test_workdir_that_cannot_be_written_fails_before_anything_is_built(self, tmp_path):
        (tmp_path / "file").write_text("")
        c = tiny_config("v3", "npz:missing")  # would fail later
        with pytest.raises(ValueError, match=r"workdir=.*cannot be written"):
            loop.run(c, tmp_path / "file" / "run")

    @pytest.mark.parametrize("workdir", ["ftp://host/run", "gcs://b/r", pathlib.Path("az://b")])
    def test_workdir_of_an_unknown_scheme_is_refused_and_makes_no_folder(
        self, workdir, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"workdir='\w+:/.* begins with gs:// or s3://, or a"):
            loop.run(tiny_config("v3", "npz:missing"), workdir)
        assert not list(tmp_path.iterdir())

    def test_groups_that_do_not_divide_the_batch(self, source):
        c = tiny_config("v1", source)
        c.method.bn_group_size = 3
        with pytest.raises(ValueError, match=r"bn_group_size=3 must divide data.batch_size=16"):
            experiment.build(c)

    def test_checkpoint_of_another_model(self, source, tmp_path):
        c = tiny_config("v3", source)
        c.epochs = 0.4
        loop.run(c, tmp_path / "run")
        c.model.vit.width = 32
        c.checkpoint.allow_changes = True
        with pytest.raises(CheckpointError, match=r"another model(?s:.*)in the checkpoint"):
            loop.run(c, tmp_path / "run")

    @pytest.mark.skipif(os.environ["JAX_PLATFORMS"] != "cpu", reason="needs a CPU-only process")
    def test_a_backend_that_is_not_there(self, source):
        c = tiny_config("v3", source)
        c.backend = "gpu"
        with pytest.raises(RuntimeError, match=r"backend='gpu' was asked for, but JAX found cpu"):
            experiment.build(c)
