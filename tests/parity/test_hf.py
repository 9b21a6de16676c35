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
from moco_jax.errors import InputError

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
    with pytest.raises(
        ValueError, match=r"needs the library 'datasets': pip install .*(hf|datasets)"
    ):
        hf.open_hf(os.devnull)


PICTURES = [Image.fromarray(np.full((6, 8, 3), i, np.uint8)) for i in range(8)]
NUMBERS = [i % 3 for i in range(8)]
WORDS = ["cat", "dog", "owl"]


def save_columns(tmp_path, name="saved", **columns):
    """A data set of some pictures and columns, each (values, feature)."""
    columns = {"image": (PICTURES, datasets.Image())} | columns
    features = datasets.Features({key: feature for key, (_, feature) in columns.items()})
    values = {key: values for key, (values, _) in columns.items()}
    datasets.Dataset.from_dict(values, features=features).save_to_disk(str(tmp_path / name))
    return f"hf:{tmp_path}/{name}"


@pytest.mark.parametrize("key", ["label", "labels", "class", "Category", "target"])
@pytest.mark.parametrize(
    ("values", "feature", "numbers", "names"),
    [
        (NUMBERS, datasets.ClassLabel(names=WORDS), NUMBERS, tuple(WORDS)),
        (NUMBERS, datasets.Value("int64"), NUMBERS, ("0", "1", "2")),
        (NUMBERS, datasets.Value("uint8"), NUMBERS, ("0", "1", "2")),
        ([WORDS[i] for i in NUMBERS], datasets.Value("string"), NUMBERS, tuple(WORDS)),
        ([*NUMBERS[:6], -1, -1], datasets.ClassLabel(names=WORDS), [*NUMBERS[:6], -1, -1],
         tuple(WORDS)),
        ([*NUMBERS[:6], None, None], datasets.ClassLabel(names=WORDS), [*NUMBERS[:6], -1, -1],
         tuple(WORDS)),
        ([*NUMBERS[:6], None, None], datasets.Value("int32"), [*NUMBERS[:6], -1, -1],
         ("0", "1", "2")),
        ([*(WORDS[i] for i in NUMBERS[:7]), None], datasets.Value("string"), [*NUMBERS[:7], -1],
         tuple(WORDS)),
    ],
)  # fmt: skip
def test_labels_of_every_kind(tmp_path, key, values, feature, numbers, names):
    source = open_source(save_columns(tmp_path, **{key: (values, feature)})).train
    assert [source.read(i)[1] for i in range(8)] == numbers
    assert (source.labelled, source.class_names) == (True, names)
    np.testing.assert_array_equal(subset.labels_of(source), numbers)
    assert source.understood.labels == f"column {key!r}"
    assert source.understood.unlabelled == numbers.count(-1)
    assert pickle.loads(pickle.dumps(source)).read(7)[1] == numbers[7]


@pytest.mark.parametrize(
    ("key", "values", "feature"),
    [
        ("caption", ["a"] * 8, datasets.Value("string")),
        ("id", list(range(8)), datasets.Value("int64")),
        ("label", [0.5] * 8, datasets.Value("float32")),
        ("label", [-1] * 8, datasets.ClassLabel(names=WORDS)),
        ("label", [None] * 8, datasets.Value("string")),
    ],
)
def test_other_columns_and_hidden_labels_are_none(tmp_path, key, values, feature):
    source = open_source(save_columns(tmp_path, **{key: (values, feature)})).train
    assert (source.labelled, source.class_names, source.read(0)[1]) == (False, (), -1)


@pytest.mark.parametrize(
    ("values", "feature", "found"),
    [
        ([[0, 1]] * 8, datasets.List(datasets.Value("int64")), r"shape \(8, 2\)"),
        ([[0], [0, 1]] * 4, datasets.List(datasets.Value("int64")), "are list; expected"),
        ([0.5] * 8, datasets.Value("float32"), "are float; expected integers or strings"),
        ([True] * 8, datasets.Value("bool"), "are bool; expected"),
        ([10**9] * 8, datasets.Value("int64"), "go up to 1000000000; expected"),
        ([2**40] * 8, datasets.Value("int64"), "go up to 1099511627776; expected"),
    ],
)
def test_a_chosen_column_that_holds_no_labels_is_refused(tmp_path, values, feature, found):
    spec = save_columns(tmp_path, many=(values, feature))
    with pytest.raises(InputError, match=f"column 'many'.*{found}"):
        open_source(spec, "", "", "many")


def test_a_record_without_an_image_is_one_unreadable_image(tmp_path, caplog):
    spec = save_columns(tmp_path, image=([*PICTURES[:7], None], datasets.Image()))
    data = config.default().data
    data.update(source=spec, eval_batch_size=8, image_size=8, threads=1)
    with pipeline.eval_batches(pipeline.open_data(data).train, data) as batches:
        assert next(batches)["index"].tolist() == [*range(7), -1]
    assert "train[7]: the record has no image" in caplog.text


TWO = {
    "coarse": ([0] * 8, datasets.ClassLabel(names=["all"])),
    "fine": (NUMBERS, datasets.ClassLabel(names=WORDS)),
    "mask": (PICTURES[::-1], datasets.Image()),
}


def test_of_several_columns_one_is_chosen_by_an_option(tmp_path):
    spec = save_columns(tmp_path, **TWO)
    with pytest.raises(InputError, match=r"2 columns of labels, coarse, fine.*label_column='coar"):
        open_source(spec)
    train = open_source(spec, "", "", "fine").train
    assert (train.class_names, levels(train)) == (tuple(WORDS), list(range(8)))
    data = config.default().data
    data.update(source=spec, label_column="fine", image_column="mask", array_gb=0.0)
    assert levels(pipeline.open_data(data).train) == list(range(8))[::-1]
    with pytest.raises(InputError, match=r"label_column='fin' is not one of.*mean 'fine'"):
        open_source(spec, "", "", "fin")
    with pytest.raises(InputError, match="image_column='fine' is not one of image, mask"):
        open_source(spec, "", "fine", "fine")
    with pytest.raises(InputError, match="'folder' has no columns"):
        open_source(f"folder:{tmp_path}", "", "", "fine")


@pytest.mark.parametrize("columns", [("left", "right"), ("a", "b", "c")])
def test_several_columns_of_images_without_a_usual_name_are_refused(tmp_path, columns):
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    made = datasets.Dataset.from_dict(dict.fromkeys(columns, PICTURES), features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match=f"{len(columns)} columns of images, {', '.join(columns)}"):
        open_source(f"hf:{tmp_path}/saved")
    spec = f"hf:{tmp_path}/saved"
    assert levels(open_source(spec, "", columns[1]).train) == list(range(8))


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("test", ["validation", "valid", "val", "dev", "test", "testing"])
def test_splits_by_their_usual_names(tmp_path, train, test):
    splits = {train: make(5), test: make(3), "unsupervised": make(2, labels=False)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    found = open_source(f"hf:{tmp_path}/saved")
    assert (len(found.train), len(found.test)) == (5, 3)
    assert found.train.understood.notes == ("not the splits 'unsupervised'",)


def test_words_of_the_test_split_have_the_numbers_of_training(tmp_path):
    def part(words):
        columns = {"image": PICTURES[: len(words)], "label": words}
        features = {"image": datasets.Image(), "label": datasets.Value("string")}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    splits = {"train": part(WORDS), "test": part(["owl", "dog"])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    test = open_source(f"hf:{tmp_path}/saved").test
    assert (subset.labels_of(test).tolist(), test.class_names) == ([2, 1], tuple(WORDS))
    datasets.DatasetDict(splits | {"test": part(["ant"])}).save_to_disk(str(tmp_path / "more"))
    with pytest.raises(InputError, match=r"column 'label' hold 'ant'.*3 classes of training"):
        open_source(f"hf:{tmp_path}/more")


def test_files_keep_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for i in range(4):
        path = tmp_path / "images" / "train" / "ab"[i % 2] / f"picture{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PICTURES[i].save(path)
    spec = f"hf:{tmp_path}/images"
    encoded = open_source(spec).train
    data = config.default().data
    data.update(source=spec, threads=1)
    for source in (encoded, pipeline.open_data(data).train):
        names = [source.item_name(i) for i in range(4)]
        assert [name.split()[-1] for name in names] == [f"picture{i}.png" for i in (0, 2, 1, 3)]
    assert encoded.understood.kinds == {".png": 4}
