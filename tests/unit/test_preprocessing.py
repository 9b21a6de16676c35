"""Exports carry how images are prepared, and the loader reads it back."""

import json

import numpy as np
import pytest

import moco_jax
from moco_jax import convert
from moco_jax.convert import preprocessing
from moco_jax.convert.formats import FORMATS
from tests.tiny import tiny_config, write_npz
from tests.torchlike import small_contents
from tests.workdir import write_workdir


def prepared(vit):
    contents = small_contents("moco_v3" if vit else "moco", vit=vit)
    d = contents.config.data
    d.mean, d.std, d.eval_crop_share = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.75
    if not vit:
        d.image_size = 48
    return contents


@pytest.mark.parametrize("vit", [False, True])
@pytest.mark.parametrize(
    ("name", "to"),
    [("x.safetensors", None), ("x.pth", None), ("x", "transformers"), ("x.pth", "deit")],
)
def test_mean_std_share_and_size_come_back(name, to, vit, tmp_path):
    if to == "deit" and not vit:
        pytest.skip("holds Vision Transformers")
    contents = prepared(vit)
    convert.write(tmp_path / name, contents, to)
    found = convert.read(tmp_path / name).config.data
    for field in ("mean", "std", "eval_crop_share", "image_size"):
        assert found[field] == contents.config.data[field], field
    encoder = moco_jax.load(tmp_path / name)
    assert (encoder.mean, encoder.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_features_of_an_export_are_those_of_the_workdir(tmp_path):
    c = tiny_config("v3", write_npz(tmp_path / "x.npz", 40, channels=3))
    c.data.eval_crop_share = 0.8
    x, _ = write_workdir(tmp_path / "run", c)
    images = x.data.train.images[:3]
    wanted = moco_jax.load(tmp_path / "run")(images)
    for name, to in (("x.safetensors", None), ("x", "transformers")):
        convert.convert(tmp_path / "run", tmp_path / name, to)
        found = moco_jax.load(tmp_path / name)(images)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_transformers_is_told(tmp_path):
    contents = prepared(False)
    contents.config.data.mean = contents.config.data.std = ()
    convert.write(tmp_path / "x", contents, "transformers")
    said = json.loads((tmp_path / "x/preprocessor_config.json").read_text())
    assert (said["size"], said["crop_pct"]) == ({"shortest_edge": 48}, 0.75)
    assert said["image_mean"] == [0.485, 0.456, 0.406], "() stands for ImageNet's"
    assert said["rescale_factor"] == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    "said",
    [
        {"mean": "x", "std": [1]}, {"mean": [0.1], "std": [0.0]}, {"mean": [1, 2], "std": [1]},
        {"crop_pct": 2}, {"crop_pct": "x"}, {"image_size": -3}, {"image_size": 2.5}, {"size": 7},
    ],
)  # fmt: skip
def test_what_is_not_well_formed_is_passed_over(said):
    c = prepared(False).config
    before = c.to_json()
    preprocessing.apply(said, c, "nobody")
    assert c.to_json() == before


@pytest.mark.parametrize(
    ("width", "stem", "note"),
    [
        (1.0, "imagenet", ""),
        (0.25, "imagenet", "have no resnet18 with width 0.25"),
        (0.25, "cifar", "with width 0.25 and a 3x3 first convolution and no pooling"),
    ],
)
def test_a_network_that_the_library_has_not_is_said(width, stem, note):
    contents = small_contents("moco")
    contents.config.model.name = "resnet18"
    contents.config.model.resnet.update(width=width, stem=stem)
    text = FORMATS["torchvision"].note(contents)
    assert (note in text) if note else text == ""
