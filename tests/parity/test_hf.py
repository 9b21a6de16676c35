"""Sources from the library `datasets`: made and read on disk, nothing is downloaded."""

import io
import os
import pickle
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import decoding, hf, pipeline, subset
from moco_jax.data.source import ArraySource, EncodedSource, open_source

pytestmark = pytest.mark.parity


def make(count, labels=True, kind="PNG"):
    """Image i is 8x6 pixels of the level i; its label is i % 2."""
    content = []
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(file, kind)
        content.append({"bytes": file.getvalue(), "path": None})
    columns = {"text": [str(i) for i in range(count)], "picture": content}
    features = {"text": datasets.Value("string"), "picture": datasets.Image()}
    if labels:
        columns["label"] = [i % 2 for i in range(count)]
        features["label"] = datasets.ClassLabel(names=["even", "odd"])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def levels(source):
    return [int(decoding.decode(source.read(i)[0])[0, 0, 0]) for i in range(len(source))]


@pytest.fixture
def saved(tmp_path):
    splits = {"train": make(20), "validation": make(6), "test": make(9)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return f"hf:{tmp_path}/saved"


def test_a_saved_data_set_is_read_at_random(saved):
    train, test = open_source(saved)
    assert (len(train), len(test)) == (20, 6)
    assert levels(train) == list(range(20))
    assert [train.read(i)[1] for i in (5, 2, 19)] == [1, 0, 1]
    assert train.class_names == test.class_names == ("even", "odd")
    assert (train.labelled, train.channels, train.image_shape) == (True, 3, None)
    assert train.item_name(3) == f"{saved} train[3]"
    np.testing.assert_array_equal(subset.labels_of(train), [i % 2 for i in range(20)])
    assert pickle.loads(pickle.dumps(train)).read(7) == train.read(7)


def test_folders_that_the_library_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "parquet").mkdir()
    make(5).to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    for i in range(4):
        path = tmp_path / "images" / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(path)
    train, test = open_source(f"hf:{tmp_path}/parquet")
    assert (levels(train), test) == (list(range(5)), None)
    train = open_source(f"hf:{tmp_path}/images").train
    assert levels(train) == [0, 2, 1, 3]
    assert [train.read(i)[1] for i in range(4)] == [0, 0, 1, 1]


def test_without_labels_and_without_splits(tmp_path):
    make(3, labels=False).save_to_disk(str(tmp_path / "saved"))
    train, test = open_source(f"hf:{tmp_path}/saved")
    assert (train.labelled, train.class_names, train.read(0)[1], test) == (False, (), -1, None)


def test_a_hub_name_and_its_config_go_to_the_library(monkeypatch):
    asked = []
    splits = {"train": make(2), "test": make(1)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or splits)
    assert [len(part) for part in open_source("hf:some/pictures:small")] == [2, 1]
    open_source("hf:pictures")
    assert asked == [("some/pictures", "small"), ("pictures", None)]


def test_it_feeds_the_pipeline_from_processes_and_as_an_array(saved):
    data = config.default().data
    data.update(source=saved, batch_size=8, image_size=8, threads=2, array_gb=0.0)
    streams = []
    for processes in (1, 2):
        data.processes = processes
        source = pipeline.open_data(data).train
        assert isinstance(source, EncodedSource)
        with pipeline.train_batches(source, data, 0) as batches:
            streams.append([next(batches) for _ in range(4)])
    for a, b in zip(*streams):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    data.array_gb = 1.0
    train = pipeline.open_data(data).train
    assert isinstance(train, ArraySource)
    assert train.images[:, 0, 0, 0].tolist() == list(range(20))


def test_bad_data_sets_are_refused(tmp_path, monkeypatch):
    datasets.DatasetDict({"all": make(2)}).save_to_disk(str(tmp_path / "all"))
    make(2).remove_columns("picture").save_to_disk(str(tmp_path / "text"))
    (tmp_path / "empty").mkdir()

    def missing(name, subset):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist")

    for name, message in (("all", "no split 'train', only all"), ("text", "no image among its"),
                          ("empty", "cannot be loaded")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            open_source(f"hf:{tmp_path}/{name}")
    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(ValueError, match=r"hf:nobody/nothing cannot be loaded: .* doesn't exist"):
        open_source("hf:nobody/nothing")


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the library 'datasets': pip install .*\[hf\]"):
        hf.open_hf(os.devnull)
