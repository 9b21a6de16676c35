"""The commands on features as users call them: what they write, how they resume, and refuse."""

import json
import os
import pathlib
import subprocess
import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import moco_jax
from moco_jax import results
from moco_jax.commands import features, knn
from moco_jax.evals import featurefile
from moco_jax.evals.extraction import extract
from moco_jax.evals.knn_monitor import KnnMonitor
from moco_jax.training import experiment
from tests.tiny import tiny_config, write_npz
from tests.workdir import write_workdir

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    c = tiny_config("v3", write_npz(path / "images.npz", images=80, test_images=21))
    x, state = write_workdir(path / "run", c)
    return path / "run", x, state


def expected(x, state, source):
    encode = experiment.make_encode(x)
    return extract(lambda batch: encode(state, batch), experiment.eval_batches(x, source))


def call(command, *flags):
    return command.main([str(flag) for flag in flags])


def test_all_images_with_labels_and_names(run, tmp_path):
    path, x, state = run
    out = tmp_path / "features.npz"
    assert call(features, "--checkpoint", path, "--out", out) == 0
    with np.load(out) as found:
        assert found["features"].dtype == np.float32
        wanted = [expected(x, state, source) for source in x.data]
        np.testing.assert_allclose(found["features"], np.concatenate([f for f, _ in wanted]),
                                   atol=1e-6)  # fmt: skip
        np.testing.assert_array_equal(found["labels"], np.concatenate([y for _, y in wanted]))
        np.testing.assert_array_equal(found["split"], ["train"] * 80 + ["test"] * 21)
        np.testing.assert_array_equal(found["index"], [*range(80), *range(21)])
        assert found["names"][3].endswith("images.npz[3]")
        assert json.loads(str(found["about"]))["images"] == {"train": 80, "test": 21}
    assert list(tmp_path.iterdir()) == [out], "no part is left"


def test_an_interrupted_extraction_goes_on_and_gives_the_same_bits(run, tmp_path, monkeypatch):
    path, *_ = run
    flags = ("--checkpoint", path, "--split", "train", "--batch_size", 8, "--out")
    assert call(features, *flags, tmp_path / "whole.npz") == 0
    monkeypatch.setattr(features, "PART_IMAGES", 16)
    add = featurefile.Parts.add

    def killed(self, split, start, *args):
        if start == 48:
            raise KeyboardInterrupt
        add(self, split, start, *args)

    monkeypatch.setattr(featurefile.Parts, "add", killed)
    out = tmp_path / "broken.npz"
    with pytest.raises(KeyboardInterrupt):
        call(features, *flags, out)
    assert not out.exists()
    started = []
    monkeypatch.setattr(featurefile.Parts, "add",
                        lambda *args: (started.append(args[2]), add(*args)))  # fmt: skip
    assert call(features, *flags, out) == 0
    assert started == [48, 64]
    assert (tmp_path / "whole.npz").read_bytes() == out.read_bytes()


def test_a_signal_keeps_what_is_there(run, tmp_path, monkeypatch):
    path, *_ = run
    out, calls = tmp_path / "f.npz", []

    class Stop:
        def __enter__(self):
            return lambda position: len(calls) == 2 or calls.append(position)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(features, "stop_requested", Stop)
    flags = ("--checkpoint", path, "--batch_size", 8, "--out", out)
    assert call(features, *flags) == 75
    parts = [p.name for p in (tmp_path / "f.npz.parts").glob("*.npz")]
    assert parts == ["train-000000000-000000024.npz"]
    monkeypatch.undo()
    assert call(features, *flags) == 0
    assert len(np.load(out)["index"]) == 101


def test_parts_of_other_settings_are_refused(run, tmp_path, monkeypatch, capsys):
    path, *_ = run
    out = tmp_path / "f.npz"
    monkeypatch.setattr(features, "assemble", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(features, "--checkpoint", path, "--split", "test", "--out", out)
    monkeypatch.undo()
    assert call(features, "--checkpoint", path, "--split", "test", "--crop_share", 0.5,
                "--out", out) == 2  # fmt: skip
    assert "crop_share: 1.0, now 0.5" in capsys.readouterr().err
    (tmp_path / "f.npz.parts" / "test-000000000-000000021.npz").rename(
        tmp_path / "f.npz.parts" / "test-000000005-000000021.npz"
    )
    assert call(features, "--checkpoint", path, "--split", "test", "--out", out) == 2
    assert "lacks a part of 'test' at image 0" in capsys.readouterr().err


def test_parquet(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path, x, _ = run
    out = tmp_path / "f.parquet"
    assert call(features, "--checkpoint", path, "--split", "test", "--out", out,
                "--features", "projection") == 0  # fmt: skip
    table = parquet.read_table(out)
    assert table.column_names == ["features", "labels", "index", "names", "split"]
    rows = np.array(table["features"].to_pylist(), np.float32)
    encode = moco_jax.load(path, features="projection")
    np.testing.assert_allclose(rows, encode(x.data.test.images), atol=1e-6)
    np.testing.assert_array_equal(table["labels"].to_numpy(), x.data.test.labels)
    assert json.loads(table.schema.metadata[b"about"])["features"] == "projection"


def test_files_keep_their_names_and_bad_ones_are_left_out(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "images" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "images" / "cat" / "5.png").write_text("no image")
    c = tiny_config("v3", f"folder:{tmp_path}/images")
    c.data.max_bad_share = 0.1
    write_workdir(tmp_path / "run", c)
    out = tmp_path / "f.npz"
    assert call(features, "--checkpoint", tmp_path / "run" / "checkpoints" / "0", "--out", out) == 0
    found = np.load(out)
    assert len(found["features"]) == 19
    assert not any(name.endswith("5.png") for name in found["names"] if "15" not in name)
    for name, label in zip(found["names"], found["labels"]):
        assert pathlib.Path(name).exists()
        assert found["class_names"][label] == pathlib.Path(name).parent.name
    assert "5.png" in caplog.text


def test_knn_with_its_floors(run, capsys):
    path, x, state = run
    assert call(knn, "--checkpoint", path, "--k", "5,200", "--temperature", "0.07,1") == 0
    shown = capsys.readouterr().out
    assert "21 images of" in shown
    saved = results.read(path)
    encoders = [r["settings"]["encoder"] for r in saved[::4]]
    assert encoders == ["step 0", "untrained", "raw pixels"]
    pairs = [(r["settings"]["k"], r["settings"]["temperature"]) for r in saved[:4]]
    assert pairs == [(5, 0.07), (5, 1.0), (80, 0.07), (80, 1.0)]
    assert {r["examples"] for r in saved} == {21}
    monitor = KnnMonitor(x.config.knn, x.data, partial(experiment.eval_batches, x), x.mesh)
    encode = experiment.make_encode(x)
    watched = monitor.measure("top1", lambda batch: encode(state, batch))
    assert saved[0]["metrics"] == watched
    assert f"top-1 {watched['top1']:6.1%}" in shown


def test_knn_as_a_program_on_other_images(run, tmp_path):
    path, *_ = run
    source = write_npz(tmp_path / "other.npz", images=30)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "moco_jax", "knn", f"--checkpoint={path}", f"--data={source}"]
    command += [f"--out={tmp_path}/out", "--no-floors", "--k=3", "--max_train=16"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "k    3" in done.stdout
    records = results.read(tmp_path / "out")
    assert {(r["settings"]["k"], r["examples"], r["settings"]["bank"]) for r in records} == {
        (3, 16, 16)
    }
    assert all(record["split"].endswith("one left out") for record in records)


class TestBadInput:
    def refused(self, capsys, command, *flags):
        assert call(command, *flags) == 2
        return capsys.readouterr().err

    def test_output(self, run, tmp_path, capsys, monkeypatch):
        path, *_ = run
        csv = self.refused(capsys, features, "--checkpoint", path, "--out", tmp_path / "f.csv")
        assert "'.csv' is not one of .npz, .parquet" in csv
        (tmp_path / "f.npz").write_text("")
        there = self.refused(capsys, features, "--checkpoint", path, "--out", tmp_path / "f.npz")
        assert "exists" in there
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        missing = self.refused(capsys, features, "--checkpoint", path, "--out",
                               tmp_path / "f.parquet")  # fmt: skip
        assert "pip install 'pyarrow" in missing

    def test_checkpoint(self, tmp_path, capsys):
        (tmp_path / "text.pth").write_text("nothing")
        for command, more in ((features, ["--out", tmp_path / "f.npz"]), (knn, [])):
            bad = self.refused(capsys, command, "--checkpoint", tmp_path / "text.pth",
                               "--data", "embedded", *more)  # fmt: skip
            assert "text.pth: neither a PyTorch file nor safetensors" in bad
            bad = self.refused(capsys, command, "--checkpoint", tmp_path / "nowhere", *more)
            assert "nowhere" in bad

    def test_data(self, run, tmp_path, capsys):
        path, *_ = run
        colour = write_npz(tmp_path / "colour.npz", channels=3)
        bad = self.refused(capsys, knn, "--checkpoint", path, "--data", colour)
        assert "images of 3 channels; the encoder" in bad
        unlabelled = write_npz(tmp_path / "unlabelled.npz", labels=False)
        bad = self.refused(capsys, knn, "--checkpoint", path, "--data", unlabelled)
        assert "unlabelled.npz has no labels" in bad
        flags = ("--checkpoint", path, "--data", unlabelled, "--out", tmp_path / "f.npz")
        assert "no test images" in self.refused(capsys, features, *flags, "--split", "test")
        assert "batch_size=12" in self.refused(capsys, features, *flags, "--batch_size", 12)
        assert call(features, *flags) == 0
        assert (np.load(tmp_path / "f.npz")["labels"] == -1).all()

    def test_a_file_does_not_say_what_it_has_seen(self, run, tmp_path, capsys):
        moco_jax_file = tmp_path / "x.safetensors"
        from moco_jax import convert

        convert.convert(run[0], moco_jax_file)
        bad = self.refused(capsys, knn, "--checkpoint", moco_jax_file, "--mean=0.5", "--std=0.2")
        assert "name --data" in bad

    def test_options(self, run, capsys):
        bad = self.refused(capsys, knn, "--checkpoint", run[0], "--k", "5,0")
        assert "expected above 0" in bad
        with pytest.raises(SystemExit):
            call(knn, "--checkpoint", run[0], "--k", "five")
        assert "invalid ints value: 'five'" in capsys.readouterr().err

    def test_features_that_are_not_finite(self, run, tmp_path, capsys):
        c = run[1].config
        write_workdir(tmp_path / "run", c, lambda name, leaf: leaf * jnp.nan
                      if name.startswith("params/backbone") else leaf)  # fmt: skip
        flags = ("--checkpoint", tmp_path / "run")
        bad = self.refused(capsys, features, *flags, "--out", tmp_path / "f.npz")
        assert "run, step 0 gives features with NaN or infinity, of image 0, 1" in bad
        assert "images.npz[0]" in bad
        assert "step 0: features with NaN" in self.refused(capsys, knn, *flags)
