"""What convert does not write, and that a failing write leaves nothing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.convert import topickle
from moco_jax.convert.formats import onnx_model
from moco_jax.errors import CheckpointError, InputError
from tests.torchlike import small_contents


@pytest.mark.parametrize(
    ("kind", "to", "message"),
    [
        (("moco_v3", True), "torchvision", "use timm"),
        (("moco_v3", True), "detectron2", "holds ResNets"),
        (("moco", False), "deit", "holds Vision Transformers"),
        (("moco", False), "lincls", "params/classifier/kernel"),
        (("moco", False), "moco_v3", "a moco training is not one of moco_v3"),
    ],
)
def test_formats_that_cannot_hold_it(kind, to, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out", small_contents(*kind), to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vit": {"pool": "avg"}}, "pool='avg'"),
        ({"vit": {"stem": "conv", "position": "none"}}, "stem='conv', position='none'"),
    ],
)
def test_vits_that_transformers_does_not_have(change, message, tmp_path):
    contents = small_contents("moco_v3", vit=True)
    contents.config.model.vit.update(change["vit"])
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out", contents, "transformers")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.method.predictor.update(layers=3), "predictor.layers is 3, not 2"),
        (lambda c: c.method.projector.update(bias=True), "projector.bias is True, not False"),
        (lambda c: c.model.vit.update(position="learned"), "position is learned, not sincos"),
        (
            lambda c: c.model.vit.update(width=384, heads=6),
            "its ViT of width 384 has 12 heads, not 6",
        ),
    ],
)
def test_networks_that_the_official_code_does_not_have(change, message, tmp_path):
    contents = small_contents("moco_v3", vit=True)
    change(contents.config)
    with pytest.raises(CheckpointError, match=message):
        convert.write(tmp_path / "out.pth.tar", contents)


@pytest.mark.parametrize("to", ["timm", "deit", "moco_v3", "lincls", "transformers", "ours"])
@pytest.mark.parametrize("eps", [1e-6, 1e-12])
def test_formats_that_cannot_say_the_epsilon_of_layer_norm(to, eps, tmp_path, caplog):
    contents = small_contents("moco_v3", vit=True)
    contents.config.model.vit.norm_eps = eps
    if to == "lincls":
        contents.leaves["params/classifier/kernel"] = np.zeros((16, 3), np.float32)
        contents.leaves["params/classifier/bias"] = np.zeros(3, np.float32)
    with caplog.at_level("INFO", "moco_jax"):
        convert.write(tmp_path / "out", contents, to)
    said = "the model that loads it needs eps=1e-12" in caplog.text
    assert said == (eps == 1e-12 and to not in ("transformers", "ours"))


def test_v2_with_a_vit_is_not_the_official_codes(tmp_path):
    with pytest.raises(CheckpointError, match="it has ResNets only"):
        convert.write(tmp_path / "out.pth.tar", small_contents("moco", vit=True))


def test_arguments_that_do_not_fit(tmp_path):
    contents = small_contents("moco")
    (tmp_path / "there.pth").write_text("mine")
    with pytest.raises(ValueError, match=r"there\.pth exists; it is not overwritten"):
        convert.write(tmp_path / "there.pth", contents)
    with pytest.raises(ValueError, match="tells no format: name one with --to"):
        convert.write(tmp_path / "out", contents)
    with pytest.raises(ValueError, match="did you mean 'torchvision'"):
        convert.write(tmp_path / "out", contents, "torchvison")
    with pytest.raises(ValueError, match="for formats of one encoder, not for 'moco'"):
        convert.write(tmp_path / "out.pth.tar", contents, encoder="key")
    with pytest.raises(ValueError, match="did you mean 'query'"):
        convert.write(tmp_path / "out.pth", contents, encoder="quer")
    convert.write(tmp_path / "key.pth", contents, encoder="key")
    with pytest.raises(CheckpointError, match="no query encoder in it, only the key encoder"):
        convert.write(tmp_path / "q.pth", convert.read(tmp_path / "key.pth"), encoder="query")
    assert (tmp_path / "there.pth").read_text() == "mine"


def test_onnx_without_its_library_and_of_other_values(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"an .onnx file needs the library 'jax2onnx': pip"):
        convert.write(tmp_path / "x.onnx", small_contents("moco"))
    assert not list(tmp_path.iterdir())

    def encode(images):
        return (images.mean((1, 2)),)

    session = SimpleNamespace(run=lambda _, feeds: encode(feeds["images"]))
    onnx_model._check(session, encode, (4, 4, 3))
    for wrong in (lambda y: 1.001 * y, lambda y: y[:1], lambda y: np.full_like(y, np.nan)):
        session.run = lambda _, feeds, wrong=wrong: [wrong(y) for y in encode(feeds["images"])]
        with pytest.raises(CheckpointError, match="gives other values than the encoder"):
            onnx_model._check(session, encode, (4, 4, 3))


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(topickle, "_record", fail)
    with pytest.raises(OSError, match="no space left"):
        convert.write(tmp_path / "out.pth", small_contents("moco"))
    assert not list(tmp_path.iterdir())
