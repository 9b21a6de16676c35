"""A whole run of a segmenter: it learns, and resumes as if never stopped."""

import shutil

import jax
import numpy as np
import pytest

from moco_jax import results
from moco_jax.checkpoint import Checkpoints
from moco_jax.detection import pixel_protocol
from moco_jax.training import experiment, loop
from tests import pixel_sets

pytestmark = pytest.mark.detection


def test_a_run_learns_and_goes_on_with_the_same_bits(tmp_path):
    pixel_sets.plain(tmp_path / "voc")
    c = pixel_sets.tiny_config(tmp_path / "voc")
    c.checkpoint.every_steps = 20
    assert loop.run(c, tmp_path / "run", None, pixel_protocol.build) == 0
    whole = final(c, tmp_path / "run")
    (result,) = results.read(tmp_path / "run")
    assert result["metrics"]["mIoU"] > 0.6  # by chance 0.3 or less
    for step in (tmp_path / "run" / "checkpoints").iterdir():
        if step.name.isdigit() and int(step.name) > 20:
            shutil.rmtree(step)
    assert loop.run(c, tmp_path / "run", None, pixel_protocol.build) == 0
    jax.tree.map(np.testing.assert_array_equal, final(c, tmp_path / "run"), whole)


def final(c, workdir):
    store = Checkpoints(workdir, c.checkpoint)
    state = store.restore(experiment.abstract_state(pixel_protocol.build(c)))
    store.close()
    return state
