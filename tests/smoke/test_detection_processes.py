"""A detector trained by two processes."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from moco_jax import metrics
from tests import shapes
from tests.conftest import CACHE

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parents[2]
CONFIG_FILE = """
from tests import shapes
def get_config():
    c = shapes.tiny_config({source!r}, masks=True)
    c.epochs = 2.0
    return c
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))} | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
    "PYTHONPATH": str(ROOT),
}


def test_losses_are_those_of_one(tmp_path):
    """Sums run in another order; sooner or later another proposal is the best by that."""
    source = shapes.write(tmp_path / "data", 20)
    (tmp_path / "config.py").write_text(CONFIG_FILE.format(source=source))
    one, two = (rows_of(tmp_path, count) for count in (1, 2))
    assert [row.keys() for row in one] == [row.keys() for row in two]
    assert one[-1]["step"] == 5
    assert {"loss_masks", "AP", "masks_AP"} <= one[-1].keys()
    for a, b in zip(one[1:4], two[1:4]):
        losses = [name for name in a if name.startswith("loss")]
        assert len(losses) == 7
        for name in losses:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-4, err_msg=name)


def rows_of(folder, processes):
    """The metrics of a run by so many processes of one device."""
    workdir = folder / str(processes)
    command = [
        sys.executable, "launch/local.py", "-n", str(processes), "--",
        f"--config={folder}/config.py", f"--workdir={workdir}",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    return metrics.read(workdir)
