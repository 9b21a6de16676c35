"""Every configuration builds, and every option is read by the program."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import detection, finetune, linear
from moco_jax import config
from moco_jax.detection import measured, pixel_protocol, protocol
from moco_jax.errors import CheckpointError
from moco_jax.evals import make_watches
from moco_jax.training import experiment, loop, own_run
from moco_jax.training.context import make_context
from moco_jax.training.first_state import first_state
from tests import pixel_sets, shapes
from tests.tiny import finetune_config, probe_config, tiny_config, write_npz

CONFIGS = pathlib.Path(config.__file__).parents[1] / "configs"
VITS = ("s16", "b16", "l16", "h14", "conv_s16", "conv_b16", "cifar10", "demo")


def get(name, *args):
    return importlib.import_module(f"configs.{name}").get_config(*args)


COMPARED = ("byol", "end_to_end", "memory_bank", "simclr", "swav")


def get_variants(name):
    return importlib.import_module(f"configs.{name}").VARIANTS


ALL = [
    ("demo",),
    ("demo", "long"),
    ("v1_r50",),
    ("v2_r50",),
    ("v2_r50", "800"),
    *(("v3_r50", e) for e in ("100", "300", "1000", "cifar10", "demo")),
    *(("v3_vit", v) for v in VITS),
    ("v2_r18_cifar10",),
    ("v2_r18_cifar10", "800_symmetric"),
    ("fashion_r18",),
    ("fashion_vit",),
    *((m, v) for m in COMPARED for v in get_variants(m)),
    *(("linear", v) for v in linear.PRETRAINING),
    *(("finetune", v) for v in finetune.VARIANTS),
]
SEGMENTERS = [("detection", v) for v in detection.VARIANTS if v.endswith("_fcn")]
DETECTORS = [("detection", v) for v in detection.VARIANTS if not v.endswith("_fcn")]


def test_all_configs_are_covered():
    files = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
    assert files == {name for name, *_ in ALL + DETECTORS}


@pytest.mark.parametrize("name", sorted({name for name, *_ in ALL + DETECTORS}))
def test_header_states_command_and_result(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"python -m moco_jax.main --config=configs/{name}.py" in text


@pytest.mark.parametrize("args", ALL, ids=":".join)
def test_builds(args, tmp_path):
    """Method, optimizer and schedules of the full recipe, by shape only."""
    c = get(*args)
    channels = 1 if c.data.image_size == 28 else 3
    source = write_npz(
        tmp_path / "x.npz", images=2 * c.data.batch_size, size=8, channels=channels, test_images=1
    )
    c.data.source, c.data.mean, c.data.std = source, (), ()
    x = experiment.build(c)
    state = experiment.abstract_state(x)
    frozen = [f for f in jax.tree.leaves(x.frozen) if f]
    if getattr(x.task, "heads", ()):
        assert len(frozen) == len(jax.tree.leaves(x.frozen)) - 2 > 20
    else:
        assert len(frozen) == (2 if c.optim.freeze else 0)
    assert all(leaf.dtype != "float64" for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("args", DETECTORS, ids=":".join)
def test_detectors_build(args, tmp_path):
    """The full recipe by shape only, on an image with shapes, two keypoints each."""
    c = get(*args)
    c.data.source = c.evals.source = shapes.write(tmp_path, 1)
    c.detection.spreads, c.data.batch_size, c.data.eval_batch_size = (0.1, 0.1), 16, 16
    x = protocol.build(c)
    assert x.steps == round(c.epochs / 16)
    assert all(leaf.dtype != "float64" for leaf in jax.tree.leaves(x.shapes))


@pytest.mark.parametrize("args", SEGMENTERS, ids=":".join)
def test_segmenters_build(args, tmp_path):
    """The full recipe by shape only, on two small images."""
    c = get(*args)
    pixel_sets.voc(tmp_path, "ab", {"train": "a", "val": "b"})
    c.data.source = f"voc:{tmp_path}"
    x = pixel_protocol.build(c)
    assert x.steps == round(c.epochs / 16)
    assert all(leaf.dtype != "float64" for leaf in jax.tree.leaves(x.shapes))


def test_a_wrong_variant_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 's16'"):
        get("v3_vit", "S16")


def test_stochastic_depth_is_refused_in_pre_training(tmp_path):
    c = tiny_config("v3", write_npz(tmp_path / "x.npz"))
    c.model.vit.drop_path = 0.1
    with pytest.raises(ValueError, match=r"drop_path=0.1: expected 0 with method.name='moco_v3'"):
        experiment.build(c)


def test_an_unknown_field_names_the_nearest():
    c = config.default()
    with pytest.raises(AttributeError, match='"temperature"'):
        c.method.temprature = 0.1


def leaves(c, prefix=""):
    """(record, key, full name) of every option."""
    for key, value in c.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield c, key, prefix + key


def write_folder(path):
    rng = np.random.default_rng(0)
    path.mkdir()
    for i in range(20):
        pixels = rng.integers(0, 256, (14, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return f"folder:{path}"


def test_every_option_is_read(tmp_path, monkeypatch):
    """Two runs, a refused continuation and some builds read every option, or it is a dead one."""
    source = write_npz(tmp_path / "x.npz", test_images=8)
    run, again, lars, resnet = (tiny_config(m, source) for m in ("v1", "v1", "v3", "v1"))
    run.epochs, run.log.every_steps, again.epochs = 0.4, 1, 0.2
    lars.data.source = write_folder(tmp_path / "folder")
    lars.optim.update(name="lars", freeze=())
    resnet.model.name, resnet.optim.schedule = "resnet18", "cosine"
    probe = probe_config(write_npz(tmp_path / "y.npz"))
    probe.epochs, probe.supervised.lrs, probe.data.test_share = 0.4, (1.0,), 0.2
    places = {}
    tune = finetune_config(source)
    tune.init, tune.init_part = str(tmp_path / "run"), "backbone"
    tune.model.vit.norm = "batch"
    swav, bank = (tiny_config(m, source) for m in ("swav", "memory_bank"))
    traced = lars, tune, swav, bank
    boxes = shapes.tiny_config(shapes.write(tmp_path / "shapes", 8), keypoints=True)
    pixel_sets.plain(tmp_path / "voc", 8)
    pixels = pixel_sets.tiny_config(tmp_path / "voc")
    for c in (run, again, resnet, probe, boxes, pixels, *traced):
        places |= {(id(record), key): name for record, key, name in leaves(c)}
    read, original = set(), ConfigDict.__getitem__

    def recording(self, key):
        read.add(places.get((id(self), key)))
        return original(self, key)

    monkeypatch.setattr(experiment.options, "check", lambda c: None)  # it reads every option
    monkeypatch.setattr(ConfigDict, "__getitem__", recording)
    assert loop.run(run, tmp_path / "run") == 0
    with pytest.raises(CheckpointError):
        loop.run(again, tmp_path / "run")
    for c in traced:
        x = experiment.build(c)
        with experiment.train_batches(x, 0) as batches:
            experiment.make_step(x).lower(experiment.abstract_state(x), batches.get())
    experiment.build(resnet)
    for x in (pixel_protocol.build(pixels), protocol.build(boxes)):
        x.own.batches(0).close()
        make_watches(make_context(x, tmp_path), x.steps_per_epoch, x.own.evaluation)
    measured.voc(x, [measured.NOTHING] * len(x.data.test))
    first_state(experiment.build(tune), tmp_path)
    own_run.take(tune)
    assert loop.run(probe, tmp_path / "probe") == 0
    monkeypatch.undo()
    assert {name for *_, name in leaves(config.default())} - read == set()
