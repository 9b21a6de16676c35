"""Weights of a run with another queue, other classes or other images: all else is taken."""

import logging

import numpy as np
import pytest

from moco_jax.convert.formats.ours import optimizer_leaf
from moco_jax.training import first_state
from tests.torchlike import small_config, small_contents
from tests.unit.test_convert_start import official, start, value  # noqa: F401


def test_another_queue_size_keeps_all_else(official, tmp_path, caplog):  # noqa: F811
    contents, path = official("moco")
    c = small_config()
    c.method.queue_size = 16
    with caplog.at_level(logging.INFO, "moco_jax"):
        state, leaves = start(c, path, tmp_path)
    assert int(state.step) == 8
    shape = contents.leaves["method_state/queue"].shape
    said = f"queue: shape {shape} in the file, (16, {shape[1]}) in the run: made anew, all else"
    assert said in caplog.text
    assert "Random as in a new run: queue\n" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(leaves["method_state/queue"], axis=1), 1, rtol=1e-5)
    assert int(leaves["method_state/queue_ptr"]) == 0
    for name, leaf in leaves.items():
        if name.startswith(("params/", "method_state/target/")):
            np.testing.assert_array_equal(leaf, value(contents, name, leaf), name)
        if "/trace/" in name:
            np.testing.assert_array_equal(leaf, contents.leaves[optimizer_leaf(name, leaves)], name)


@pytest.mark.parametrize(
    ("name", "there", "here"),
    [("params/classifier/kernel", (4, 3), (4, 5)), ("method_state/bank", (9, 4), (8, 4))],
)
def test_what_has_the_size_of_classes_or_images_is_made_anew(name, there, here, caplog):
    contents = small_contents("moco")._replace(leaves={name: np.zeros(there)})
    assert first_state._of_size(contents, {name: np.zeros(here)}, name) == {}
    assert f"{name}: shape {there} in the file, {here} in the run: made anew" in caplog.text
    assert first_state._of_size(contents, {name: np.zeros(there)}, name).keys() == {name}
