"""The commands on features and people's data: names that survive, options as in training."""

import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.commands import embedding, features, knn
from tests.tiny import tiny_config
from tests.workdir import write_workdir


def call(command, *flags):
    return command.main([str(flag) for flag in flags])


@pytest.mark.parametrize("size", [(12, 12), (80, 90)])
def test_names_and_classes_survive_for_every_size(tmp_path, size):
    """Small images become arrays on the way."""
    rng = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "images" / ("train", "val")[i < 6] / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i:02}.png")
    c = tiny_config("v3", f"folder:{tmp_path}/images")
    c.data.batch_size = 8
    write_workdir(tmp_path / "run", c)
    assert call(features, "--checkpoint", tmp_path / "run", "--out", tmp_path / "f.npz") == 0
    found = np.load(tmp_path / "f.npz")
    files = sorted(str(path) for path in (tmp_path / "images").rglob("*.png"))
    assert found["names"].tolist() == files
    kinds = found["class_names"][found["labels"]].tolist()
    assert kinds == [pathlib.Path(name).parent.name for name in files]


READING = [
    ("max_bad_share", "0.5"), ("max_pixels", "200"), ("levels", "4095"), ("read_seconds", "7.5"),
    ("array_gb", "0.0"), ("resident_gb", "0.0"), ("threads", "3"), ("processes", "1"),
    ("prefetch", "4"), ("image_column", "picture"), ("label_column", "kind"), ("cache_dir", "c"),
    ("test_share", "0.25"), ("test_seed", "3"),
]  # fmt: skip


def test_every_option_of_reading_is_a_flag_and_the_rest_have_one_or_are_of_training():
    others = {"source", "image_size", "mean", "std", "eval_crop_share", "eval_batch_size"}
    training = {"batch_size", "label_share", "view1", "view2", "small_view"}
    options = set(config.default().data) - others - training
    assert options == set(embedding.READING) == {name for name, _ in READING}


@pytest.mark.parametrize("command", [features, knn])
@pytest.mark.parametrize(("name", "text"), READING)
def test_features_and_knn_take_the_data_options_of_training(command, name, text, monkeypatch):
    seen = {}
    made = config.default()
    encoder = types.SimpleNamespace(
        config=made, channels=3, image_size=32, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    monkeypatch.setattr(embedding, "load", lambda *_, **__: encoder)
    monkeypatch.setattr(embedding.pipeline, "open_data", lambda data: seen.update(data) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(command, "--checkpoint=x", "--data=embedded", f"--config.data.{name}={text}",
             "--out=/nowhere/f.npz")  # fmt: skip
    assert seen[name] == type(config.default().data[name])(text)


def test_a_share_of_bad_images_is_allowed_as_in_training(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(16):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(
            tmp_path / "images" / f"{i:02}.png"
        )
    for i in (3, 4):
        (tmp_path / "images" / f"{i:02}.png").write_bytes(b"<html>404</html>")
    write_workdir(tmp_path / "run", tiny_config("v3", f"folder:{tmp_path}/images"))
    flags = ("--checkpoint", tmp_path / "run", "--out", tmp_path / "f.npz")
    assert call(features, *flags) == 2
    assert "2 of 16 images" in capsys.readouterr().err
    assert call(features, *flags, "--config.data.max_bad_share=0.2") == 0
    assert np.load(tmp_path / "f.npz")["index"].tolist() == [0, 1, 2, *range(5, 16)]
