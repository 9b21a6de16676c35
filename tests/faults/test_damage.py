"""Damaged files of a run: a checkpoint is passed over, a side file is left out and said."""

import json
import shutil

import pytest

from moco_jax import checkpoint
from moco_jax.checkpoint import Checkpoints
from moco_jax.errors import CheckpointError
from moco_jax.training import experiment
from tests.faults.runs import LAST, complete, saved, steps
from tests.tiny import tiny_config

pytestmark = pytest.mark.faults


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, remove])
def test_every_file_of_a_checkpoint(damage, home, undisturbed, tmp_path):
    """Either nothing is lost, or it is noticed and the checkpoint before is taken."""
    x = experiment.build(tiny_config("v3", f"npz:{home}/images.npz"))
    whole = home / "undisturbed" / "checkpoints"
    good = {step: saved(home / "undisturbed", step) for step in (18, LAST)}
    noticed = set()
    for file in sorted(p for p in (whole / str(LAST)).rglob("*") if p.is_file()):
        name = file.relative_to(whole)
        shutil.copytree(whole, tmp_path / "checkpoints")
        damage(tmp_path / "checkpoints" / name)
        with Checkpoints(tmp_path, x.config.checkpoint) as store:
            assert store.newest_config()["method"]["name"] == "moco_v3"
            state = store.restore(experiment.abstract_state(x))
        step = int(state.position)
        assert checkpoint.checksums_of(checkpoint.named(state)) == good[step], name
        if step != LAST:
            noticed.add(name.parts[1])
        try:
            _, meta = checkpoint.read(tmp_path / "checkpoints" / str(step))
            assert meta["checksums"] == good[step]
        except CheckpointError:
            assert step == LAST, "what was restored can be read"
        shutil.rmtree(tmp_path / "checkpoints")
    assert noticed == {"meta", "state"}


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("checksums"),
        lambda meta: meta["checksums"].clear(),
        lambda meta: meta["checksums"].popitem(),
        lambda meta: meta["config"].pop("method"),
        lambda meta: meta["config"]["data"].update(std=[0.5]),
        lambda meta: meta.update(config=[]),
        lambda meta: meta.update(position=7),
    ],
)
def test_json_beside_the_arrays_that_was_changed(change, home, undisturbed, tmp_path):
    step = tmp_path / "checkpoints" / str(LAST)
    shutil.copytree(home / "undisturbed" / "checkpoints" / str(LAST), step)
    file = step / "meta" / "metadata"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match=r"metadata is damaged"):
        checkpoint.read(step)


def test_damaged_side_files_stop_nothing(home, undisturbed, tmp_path):
    """All at once, then a resume before the end."""
    workdir = tmp_path / "run"
    shutil.copytree(home / "undisturbed", workdir)
    shutil.rmtree(workdir / "checkpoints" / str(LAST))
    rows = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    rows[3:5] = [b"\xff\xfe\x00 no text\n", b"[1, 2]\n"]
    (workdir / "metrics.jsonl").write_bytes(b"".join(rows))
    for name in ("results.json", "config.json", "report/run.json"):
        truncate(workdir / name)
    for name in ("report/pictures.npz", "knn_confusion.npz"):
        (workdir / name).write_bytes(b"PK\3\4 no zip")
    text = complete(home, workdir)
    assert "Resuming at step 18 of 20" in text
    assert "metrics.jsonl was damaged and is now metrics.damaged-1.jsonl" in text
    assert "results.json was damaged and is now results.damaged-1.json" in text
    assert "pictures.npz is damaged and left out" in text
    assert saved(workdir) == undisturbed
    assert steps(workdir) == [0, 1, 2, *range(5, LAST + 1)]
    assert json.loads((workdir / "results.json").read_text())[0]["evaluation"] == "knn"
    assert (workdir / "report.html").exists()
