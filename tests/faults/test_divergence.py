"""Numbers that are not finite, by learning rate and by data: code 3, and nothing is lost."""

import re
import shutil
import signal

import numpy as np
import pytest

from moco_jax import checkpoint
from tests.faults.runs import LAST, STEP, Run, complete, saved, steps

pytestmark = pytest.mark.faults
FEW = ("--config.log.max_nonfinite=3", "--config.checkpoint.keep_last=30")


def judged(text):
    """The checkpoint that is called good, and those that are called bad."""
    good = int(re.search(r"Checkpoint (\d+) is good", text)[1])
    return good, re.search(r"finite\. ([\d, ]+): these have the weights", text)[1].split(", ")


def end_diverged(home, workdir, *flags):
    with Run(home, workdir, *FEW, *flags) as run:
        return run.end(3)


def test_by_the_learning_rate_again_and_again(home, tmp_path):
    flags = ("--config.optim.base_lr=1e30", "--config.optim.warmup_epochs=3.0",
             "--config.checkpoint.every_steps=1")  # fmt: skip
    text = end_diverged(home, tmp_path, *flags)
    assert "Loss or gradient was not finite in 3 steps in a row" in text
    good, bad = judged(text)
    leaves, _ = checkpoint.read(tmp_path / "checkpoints" / str(good))
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    before, rows = saved(tmp_path, good), steps(tmp_path)
    again = end_diverged(home, tmp_path, *flags)
    assert judged(again)[0] == good
    assert set(judged(again)[1]) >= set(bad)
    assert saved(tmp_path, good) == before
    assert steps(tmp_path)[: len(rows)] == rows
    assert (tmp_path / "report.html").exists()


def test_by_the_data_in_the_middle_of_a_run(home, undisturbed, tmp_path):
    """Pixels that become infinite; once they are mended, the good checkpoint goes on bitwise."""
    with Run(home, tmp_path, *FEW, gate=f"{STEP}#8") as run:
        run.at_gate().signal(signal.SIGTERM).go().end(75)
    rows = steps(tmp_path)
    infinite = ("--config.data.mean=(0.5,)", "--config.data.std=(1e-38,)")
    for _ in range(2):
        text = end_diverged(home, tmp_path, *infinite, "--config.checkpoint.allow_changes=True")
        good, bad = judged(text)
        assert 0 < good <= rows[-1]
        assert steps(tmp_path)[: len(rows)] == rows
    for step in bad:
        shutil.move(tmp_path / "checkpoints" / step, tmp_path / step)
    assert f"Resuming at step {good} of {LAST}" in complete(home, tmp_path, *FEW)
    assert saved(tmp_path) == undisturbed
    assert steps(tmp_path) == list(range(LAST + 1)), "one row a step, none twice"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5])
def test_by_labels_is_no_training_at_all(value, home, tmp_path):
    """Images are whole numbers of 8 bits and have no NaN."""
    arrays = dict(np.load(home / "images.npz"))
    labels = arrays["labels"].astype(np.float32)
    labels[3] = value
    np.savez(tmp_path / "bad.npz", **arrays | {"labels": labels})
    with Run(home, tmp_path / "run", f"--config.data.source=npz:{tmp_path}/bad.npz") as run:
        assert "labels" in run.end(2)
    assert not (tmp_path / "run" / "checkpoints").exists()
