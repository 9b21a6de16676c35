"""The benchmarks of the input run as their users start them."""

import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import images

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--config.model.vit.depth=1", "--config.data.batch_size=8", "--config.data.eval_batch_size=8",
    "--config.data.image_size=32",
)  # fmt: skip


def run(*command):
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_input_resident_and_augment(tmp_path):
    images.write_folder(tmp_path, 8)
    out = run(
        "benchmarks.input", "--config=configs/v2_r50.py", "--rounds=1",
        f"--config.data.source=folder:{tmp_path}", "--config.data.batch_size=4",
    )  # fmt: skip
    for part in ("read", "decode", "crop", "transfer", "bare decode", "112 cores"):
        assert part in out
    out = run("benchmarks.resident", "--config=configs/demo.py", "--rounds=1", "--steps=2")
    assert "resident, cropped" in out
    out = run("benchmarks.augment", "--config=configs/v3_vit.py:s16")
    assert "of the step" in out


@pytest.mark.slow
def test_memory():
    out = run(
        "benchmarks.memory", "--config=configs/v3_vit.py:s16", "--accumulate=1,2", "--steps=1",
        *SMALL,
    )  # fmt: skip
    assert out.count("GB of state and batch") == out.count("a step") == 2


@pytest.mark.slow
def test_step():
    """Without a peer, which needs PyTorch: tests/parity/test_step_benchmark.py."""
    out = run(
        "benchmarks.step", "--config=configs/v3_vit.py:s16", "--rounds=1", "--seconds=0",
        *SMALL,
    )  # fmt: skip
    assert out.count("images/s") == out.count("GFLOP/s a device") == 2
    assert "ours on ready views: " in out
