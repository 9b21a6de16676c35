"""The notebook, executed for real on the embedded images with a small network."""

import json
import os
import pathlib

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from moco_jax import metrics, results
from moco_jax.data.source import open_source

pytestmark = pytest.mark.newcomer

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks/moco_jax_colab.ipynb"
PARAMETERS = """
EPOCHS, DATA, FOLDER, FOLDER_EPOCHS, RUNS = 5, "embedded", "images", 1, "runs"
OPTIONS = [
    "--config.model.resnet.width=0.25", "--config.model.resnet.stem=imagenet",
    "--config.model.resnet.zero_init_residual=True", "--config.data.image_size=28",
    "--config.data.mean=()", "--config.data.std=()", "--config.data.batch_size=128",
    "--config.optim.base_lr=0.2", "--config.method.queue_size=2048",
    "--config.log.tensorboard=False",
]
PROBE = ["--config.epochs=2", "--config.supervised.augment=False"]
REPOSITORY, DEVICE = "", "cpu"
"""


def write_folder(path, count=96):
    """Images of their own, some of them twice."""
    train, _ = open_source("embedded")
    for i in range(count):
        name = train.class_names[train.labels[i]].replace("/", "-")
        (path / name).mkdir(parents=True, exist_ok=True)
        gray = train.images[i].squeeze()
        Image.fromarray(np.repeat(gray[..., None], 3, -1)).save(path / name / f"{i}.png")
    gray = train.images[0].squeeze()
    first = train.class_names[train.labels[0]].replace("/", "-")
    Image.fromarray(np.repeat(gray[..., None], 3, -1)).save(path / first / "again.png")


def text_of(cell):
    return "".join(out.get("text", "") for out in cell.outputs)


def test_the_notebook_runs_and_shows_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    write_folder(tmp_path / "images")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (first,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    first.source = PARAMETERS
    nbclient.NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs)
    assert pictures >= 4, "two kinds of curves, neighbours, the map"
    for name in ("asymmetric", "symmetric"):
        rows = [r for r in metrics.read(tmp_path / "runs" / name) if "knn_top1" in r]
        assert rows[-1]["epoch"] == pytest.approx(5, abs=0.1)
        assert rows[-1]["knn_top1"] > rows[0]["knn_top1"] + 0.2, "it has learned"
    said = "".join(map(text_of, code))
    for text in ("ended with code 75", "Resuming at step", "Encoder(runs/asymmetric, step ",
                 "1.0000", "again.png", "pairs with a cosine of at least"):  # fmt: skip
        assert text in said, said
    (linear,) = [r for r in results.read(tmp_path / "runs/linear") if r["evaluation"] == "linear"]
    assert linear["metrics"]["top1"] > 0.6
    assert "Data: embedded, 9000 of 10000" in (tmp_path / "runs/linear/log.txt").read_text()


def test_it_is_kept_without_outputs_and_with_its_parameters_at_the_top():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    assert cells.index(code[0]) == 1
    assert code[0]["metadata"]["tags"] == ["parameters"]
