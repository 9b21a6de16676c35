"""predict and neighbors as users call them, against the run's own evaluation and NumPy."""

import csv
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from moco_jax.commands import neighbors, predict
from moco_jax.evals.extraction import extract
from moco_jax.training import experiment
from moco_jax.training.context import make_context
from tests.tiny import finetune_config, probe_config, tiny_config
from tests.workdir import write_workdir

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine images of three classes for training; in val/ three, and one of them twice."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        for name in CLASSES:
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
                Image.fromarray(pixels).resize((16, 14), Image.Resampling.NEAREST).save(
                    path / split / name / f"{i}.png"
                )
    again = (path / "train/bee/1.png").read_bytes()
    (path / "val/cat/copy.png").write_bytes(again)
    return path


def trained(name, leaf):
    """Weights of a classifier that has seen something."""
    if "classifier" not in name:
        return leaf
    return jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)


def call(command, *flags):
    return command.main([str(flag) for flag in flags])


@pytest.mark.parametrize("make", [finetune_config, probe_config])
def test_predictions_are_those_of_the_runs_own_evaluation(make, folder, tmp_path, capsys):
    c = make(f"folder:{folder}")
    c.data.batch_size = c.data.eval_batch_size = 8
    c.data.cache_dir = str(tmp_path / "cache")
    x, state = write_workdir(tmp_path / "run", c, trained)
    out = tmp_path / "new/predictions.csv"
    flags = ("--checkpoint", tmp_path / "run", "--split", "test", "--out")
    assert call(predict, *flags, out) == 0
    context = make_context(x, tmp_path / "run")
    logits, _ = extract(
        lambda batch: context.predict(state, batch)[0], context.batches(x.data.test)
    )
    powers = np.exp(logits.astype(np.float64))
    wanted = powers / powers.sum(1, keepdims=True)
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "probability"]
    assert [row[0] for row in rows] == [x.data.test.item_name(i) for i in range(4)]
    assert [row[1] for row in rows] == [CLASSES[i] for i in wanted.argmax(1)]
    np.testing.assert_allclose([float(row[2]) for row in rows], wanted.max(1), atol=2e-4)
    assert call(predict, *flags, tmp_path / "x.txt") == 2
    assert "expected a file that ends in .csv" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    c = tiny_config("v3", f"folder:{folder}")
    c.data.update(batch_size=8, eval_batch_size=8, cache_dir=str(path / "cache"))
    c.knn.k = 2
    x, state = write_workdir(path, c)
    encode = partial(experiment.make_encode(x, "backbone"), state)
    found = [extract(encode, experiment.eval_batches(x, part))[0] for part in x.data]
    features = np.concatenate(found).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    names = [part.item_name(i) for part in x.data for i in range(len(part))]
    return path, features @ features.T, names


def test_the_most_similar_images(run, folder, tmp_path):
    path, cosine, names = run
    query, out = folder / "train/ant/2.png", tmp_path / "like.csv"
    flags = ("--checkpoint", path, "--query", query, "--count", 4, "--out", out)
    assert call(neighbors, *flags) == 0
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["query", "rank", "cosine", "file"]
    mine = cosine[names.index(str(query))]
    order = np.argsort(-mine, kind="stable")[:4]
    assert [(row[1], row[3]) for row in rows] == [
        (f"{r}", names[i]) for r, i in enumerate(order, 1)
    ]
    np.testing.assert_allclose([float(row[2]) for row in rows], mine[order], atol=2e-4)
    assert rows[0][3] == str(query), "an image is most similar to itself"


def test_near_duplicates(run, folder, tmp_path, capsys):
    path, cosine, names = run
    out = tmp_path / "pairs.csv"
    assert call(neighbors, "--checkpoint", path, "--threshold", 0.999999, "--out", out) == 0
    assert "1 pairs with a cosine of at least 0.999999" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.reader(file))
    first, second = str(folder / "train/bee/1.png"), str(folder / "val/cat/copy.png")
    assert rows == [["cosine", "file", "like"], ["1.0000", first, second]]
    upper = cosine[np.triu_indices(len(names), 1)]
    threshold = float(np.median(upper))
    assert call(neighbors, "--checkpoint", path, "--threshold", threshold, "--out", out) == 0
    with out.open() as file:
        found = [row[0] for row in csv.reader(file)][1:]
    assert abs(len(found) - (upper >= threshold).sum()) <= 1, "the median is on the edge"
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--count", 0, "--query", "x.png"), "--count=0"),
        (("--threshold", 2), "--threshold=2.0"),
        (("--query", "nothing.png"), "nothing.png"),
        (("--out", "/"), "cannot be written"),
    ],
)
def test_what_is_refused(flags, message, run, capsys):
    assert call(neighbors, "--checkpoint", run[0], *flags) == 2
    assert message in capsys.readouterr().err
