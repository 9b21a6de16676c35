"""A probe or fine-tuning of one's own run takes from the checkpoint what is not said."""

import logging

import pytest

from configs import finetune, linear
from moco_jax import identity, options
from moco_jax.errors import CheckpointError
from moco_jax.training import experiment, own_run
from tests.tiny import tiny_config, write_npz
from tests.workdir import write_workdir

VARIANTS = [
    *((linear.get_config, name) for name in linear.PRETRAINING),
    *((finetune.get_config, name) for name in finetune.VARIANTS),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on labelled images, a third of which is held out to test on."""
    path = tmp_path_factory.mktemp("run")
    c = tiny_config("v1", write_npz(path / "images.npz", 60))
    c.data.update(test_share=1 / 3, test_seed=5, eval_crop_share=0.9)
    write_workdir(path / "run", c)
    return path / "run", c


@pytest.mark.parametrize(("get_config", "variant"), VARIANTS)
def test_every_recipe_builds_on_the_images_and_network_of_the_run(get_config, variant, run, caplog):
    path, before = run
    c = get_config(variant)
    c.init, c.data.batch_size, c.data.eval_batch_size = str(path), 8, 8
    if not c.init_recipe:
        assert variant in [f"vit_b16_{name}" for name in finetune.TRANSFER], "of other images"
        assert own_run.take(c) == {}
        return
    with caplog.at_level(logging.INFO, "moco_jax"):
        own_run.take(c)
    assert f"Taken from {path}: data.source={before.data.source}, " in caplog.text
    for name in ("source", "image_size", "eval_crop_share", "test_share", "test_seed"):
        assert c.data[name] == before.data[name]
    assert (c.model.name, c.model.vit.width, c.model.vit.norm) == ("vit_tiny", 16, "batch")
    assert len(c.data.mean) == len(c.data.std) == 1
    options.check(c)
    if variant in ("v2_r50", "resnet50_imagenet"):
        x = experiment.build(c)
        assert len(x.data.test) == 20
        assert x.found["classes"] == []


def test_what_the_command_line_says_stays(run):
    path, before = run
    c = linear.get_config("v2_r50")
    c.init, c.data.source, c.data.image_size = str(path), "embedded", 20
    own_run.take(c, {"data.source": "", "data.image_size": 0})
    assert (c.data.source, c.data.image_size, c.data.test_share) == ("embedded", 20, 0.0)
    assert c.model.name == "vit_tiny"
    c = linear.get_config("v2_r50")
    c.init, c.model.name = str(path), "pixels"
    own_run.take(c, {"model.name": ""})
    assert (c.model.name, c.data.source, c.data.mean) == ("pixels", before.data.source, ())


@pytest.mark.parametrize("init", ["", "nowhere", __file__])
def test_without_a_workdir_the_recipe_says_all(init):
    c = linear.get_config("v2_r50")
    c.init = init
    assert own_run.take(c) == {}


def test_a_workdir_without_a_checkpoint_is_said(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    c = linear.get_config("v2_r50")
    c.init = str(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        own_run.take(c)


def test_whether_it_was_taken_or_written_out_makes_no_other_run():
    c = linear.get_config("demo")
    before = identity.identity(c.to_dict())
    c.init_recipe = False
    assert identity.identity(c.to_dict()) == before
