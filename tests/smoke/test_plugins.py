"""What docs/architecture.md shows is plugged in as it stands, without touching the package."""

import pathlib
import re
import sys

import numpy as np
import pytest

from moco_jax import checkpoint, metrics
from moco_jax.data.source import OPENERS
from moco_jax.evals import EVALUATIONS
from moco_jax.methods import METHODS
from moco_jax.training import experiment, loop
from tests.tiny import tiny_config

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "architecture.md"
BLOCK = re.compile(r"```python file=(\w+)\.py\n(.*?)```", re.DOTALL)


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """Writes the pages' files and imports them, as a config file of a user's own would."""
    registries = METHODS, EVALUATIONS, OPENERS
    before = [dict(registry) for registry in registries]
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = BLOCK.findall(DOCS.read_text())
    for name, text in blocks:
        assert text.count("\n") < 60, name
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        __import__(name)
    yield [name for name, _ in blocks]
    for registry, old in zip(registries, before, strict=True):
        registry.clear()
        registry.update(old)


def test_a_method_an_evaluation_and_a_source(plugged, tmp_path):
    assert plugged == ["remember", "norms", "stripes"]
    c = tiny_config("v1", "stripes:80")
    c.method.name = "remember"
    c.evals.names = (*c.evals.names, "norms")
    x = experiment.build(c)
    memory = experiment.abstract_state(x).method_state["memory"]
    assert memory.sharding.shard_shape(memory.shape) == (10, 8)
    assert loop.run(c, tmp_path / "run") == 0
    rows = metrics.read(tmp_path / "run")
    assert [row["step"] for row in rows if "feature_length" in row] == [0, 10, 20]
    assert rows[-1]["knn_top1"] > 0.8
    assert rows[-1]["loss_chance"] == pytest.approx(np.log(80))
    assert rows[-1]["loss"] < rows[1]["loss"] / 2

    # Killed after its step 12, it ends with the same bits.
    whole, _ = checkpoint.read(tmp_path / "run" / "checkpoints" / "20")
    (tmp_path / "run" / "checkpoints" / "20").rename(tmp_path / "last")
    assert loop.run(c, tmp_path / "run") == 0
    again, _ = checkpoint.read(tmp_path / "run" / "checkpoints" / "20")
    for name, leaf in whole.items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)
