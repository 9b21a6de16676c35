"""The picture of views, as a command and in its parts."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import augment, contact_sheet, pipeline
from tests.tiny import tiny_config, write_npz

ROOT = pathlib.Path(__file__).parents[2]


def test_the_command_writes_a_picture_and_refuses_a_bad_source(tmp_path):
    config_file = ROOT / "configs" / "demo.py"
    command = [sys.executable, "-m", "moco_jax", "preview", f"--config={config_file}"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    out = tmp_path / "views.png"
    done = subprocess.run([*command, f"--out={out}"], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    side = 4 * 28 + 4
    assert Image.open(out).size == (8 * side - 4, 3 * side - 4)
    assert np.asarray(Image.open(out)).std() > 40
    done = subprocess.run([*command, "--config.data.source=npz:/missing.npz"], cwd=ROOT,
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "missing.npz" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("channels", [1, 3])
def test_the_views_are_those_of_training_denormalized(tmp_path, channels):
    c = tiny_config("v3", write_npz(tmp_path / "images.npz", channels=channels))
    source = pipeline.open_data(c.data).train
    shown = contact_sheet.views(source, c, (c.data.view1, c.data.view2), 4)
    assert shown.shape == (4, 3, 12, 12, channels)
    mean, std = pipeline.channel_stats(source, c.data)
    with pipeline.train_batches(source, c.data, c.seed) as batches:
        batch = next(batches)
    view = augment.make_views((c.data.view1, c.data.view2), 12, mean, std, c.seed)
    augmented = jax.jit(lambda batch: [view(batch, which) for which in (0, 1)])(batch)
    for which in (0, 1):
        pixels = 255 * (np.asarray(augmented[which])[:4] * np.array(std) + np.array(mean))
        np.testing.assert_allclose(shown[:, 1 + which], pixels, atol=1)
    np.testing.assert_allclose(shown[:, 0], source.images[batch["index"][:4]], atol=1)
    assert contact_sheet.grid(shown).shape[2] == 3


def test_encoded_images_and_fewer_than_asked_for(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((80, 90, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    c = config.default()
    c.data.update(source=f"folder:{tmp_path}", image_size=32, threads=1)
    for view in (c.data.view1, c.data.view2):
        view.order = ("flip",)
    source = pipeline.open_data(c.data).train
    shown = contact_sheet.views(source, c, (c.data.view1, c.data.view2))
    assert shown.shape == (3, 3, 32, 32, 3)
    order = pipeline.sample_order(c.seed, 0, 3)
    np.testing.assert_array_equal(
        shown, np.broadcast_to(60 * order[:, None, None, None, None], shown.shape)
    )
