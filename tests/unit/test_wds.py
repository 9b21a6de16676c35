"""WebDataset shards: what is in them, by Python's tarfile, and what is refused or left out."""

import pickle
import tarfile

import numpy as np
import pytest

from moco_jax.data import pipeline
from moco_jax.data import samples as index
from moco_jax.data.source import data_facts, open_source
from tests.folders import labels, levels
from tests.shards import make_shard, opened, png, read_with_tarfile, sample, samples, stream


def names(source):
    return [source.item_name(i) for i in range(len(source))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_sample_is_read_as_tarfile_reads_it(tmp_path, form):
    rng = np.random.default_rng(0)
    long, umlaut = ("é" * 60, "deep/" * 40) if form != tarfile.USTAR_FORMAT else ("e" * 60, "deep/")
    for n in range(3):
        files = {}
        for i in range(20):
            key = f"{umlaut}{long}{n}{i:02}"
            files[f"{key}.jpg"] = rng.bytes(rng.integers(1, 60_000))
            files[f"{key}.cls"] = str(rng.integers(0, 7)).encode()
            files[f"{key}.txt"] = rng.bytes(rng.integers(0, 3000))
        make_shard(tmp_path / f"{n}.tar", files, form)
    source, test = opened(tmp_path)
    assert test is None
    expected = []
    for n in range(3):
        files = read_with_tarfile(tmp_path / f"{n}.tar")
        for name, content in files.items():
            if name.endswith(".jpg"):
                label = int(files[name.replace(".jpg", ".cls")])
                expected.append((f"{n}.tar/{name}", content, label))
    assert [(source.item_name(i), *source.read(i)) for i in range(len(source))] == expected
    assert source.read_labels().tolist() == [label for *_, label in expected]
    assert source.class_names == tuple("0123456")
    assert source.understood.kinds == {".jpg": 60}
    assert source.understood.left_out[".txt files"][0] == 60


def test_files_of_a_sample_need_not_lie_together(tmp_path):
    files = samples([1, 2, 3], [0, 1, 2])
    make_shard(tmp_path / "a.tar", sorted(files.items(), key=lambda f: f[0].rpartition(".")[2]))
    source, _ = opened(tmp_path)
    assert (levels(source), labels(source)) == ([1, 2, 3], [0, 1, 2])


# Splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train/0.tar", "val/0.tar"),
        ("imagenet-train-0000.tar", "imagenet-validation-0000.tar"),
        ("Training_Set/a.tar", "seg_test/b.tar"),
        ("train-0.tar", "test_0.tar"),
    ],
)
def test_splits_are_told_by_names(tmp_path, train, test):
    make_shard(tmp_path / train, samples([1, 2], ["cat", "dog"]))
    make_shard(tmp_path / test, samples([3], ["dog"]))
    splits = opened(tmp_path)
    assert list(map(levels, splits)) == [[1, 2], [3]]
    assert list(map(labels, splits)) == [[0, 1], [1]]
    assert splits.test.class_names == ("cat", "dog")


def test_splits_are_what_is_said(tmp_path):
    for n in range(4):
        make_shard(tmp_path / f"s-{n}.tar", samples([n]))
    pattern = f"train={tmp_path}/s-{{0..1}}.tar::{tmp_path}/s-3.tar,test={tmp_path}/s-2.tar"
    assert list(map(levels, opened(tmp_path, pattern=pattern))) == [[0, 1, 3], [2]]


def test_shards_of_one_split_are_for_training(tmp_path):
    make_shard(tmp_path / "val-0.tar", samples([1]))
    train, test = opened(tmp_path)
    assert (levels(train), test) == ([1], None)
    assert train.understood.notes == ("shards of validation by their names",)


def test_validation_comes_before_test(tmp_path):
    for level, name in enumerate(("train", "test", "val")):
        make_shard(tmp_path / name / "0.tar", samples([level]))
    splits = opened(tmp_path)
    assert list(map(levels, splits)) == [[0], [2]]
    assert splits.train.understood.notes == ("not the 1 shards of test",)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{root}/*.tar", "not clear which shards.*train=PATTERN,test=PATTERN"),
        ("trian={root}/a.tar", "'trian' is not one of test, train; did you mean 'train'"),
        ("test={root}/a.tar", "no part 'train'"),
        ("train={root}/*.tar,test={root}/a.tar", "a.tar is a shard of train and of test"),
        ("pipe:curl http://x/a.tar", "cannot be read in parts"),
        ("http://x/a.tar", "http:// is not supported"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, where, message):
    for name in ("train-0", "a"):
        make_shard(tmp_path / f"{name}.tar", samples([1]))
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, pattern=where.replace("{root}", str(tmp_path)))


# The order and the file of the index


@pytest.mark.parametrize("processes", [1, 2])
def test_the_order_is_exact_wherever_it_starts(tmp_path, processes):
    """Eight images in three shards: sample g is image permutation(seed, epoch)[g % 8]."""
    for n, some in enumerate(([0, 1, 2], [3], [4, 5, 6, 7])):
        make_shard(tmp_path / f"{n}.tar", samples(some, [10 * level for level in some]))
    whole = stream(tmp_path, tmp_path, 6)
    resumed = stream(tmp_path, tmp_path, 2, 4, processes)
    order = np.concatenate([pipeline.sample_order(5, epoch, 8) for epoch in range(3)])
    index_of = np.concatenate([batch["index"] for batch in whole])
    assert index_of.tolist() == order[:18].tolist()
    for batch in whole:
        assert batch["label"].tolist() == (10 * batch["index"]).tolist()
        assert (batch["crops"][0] == batch["index"][:, None, None, None]).all()
    for one, other in zip(whole[4:], resumed):
        np.testing.assert_array_equal(one["crops"], other["crops"])
        np.testing.assert_array_equal(one["index"], other["index"])


@pytest.fixture
def readings(monkeypatch):
    """The shards whose headers were read."""
    seen, read = [], index.read_shard
    monkeypatch.setattr(
        index, "read_shard", lambda blob, wanted: seen.append(1) or read(blob, wanted)
    )
    return seen


def test_headers_are_read_once(tmp_path, readings):
    make_shard(tmp_path / "a.tar", samples([1, 2], ["b", "a"]) | {"x.txt": b""})
    first, second = (opened(tmp_path).train for _ in range(2))
    assert len(readings) == 1
    assert names(first) == names(second) == ["a.tar/0001.png", "a.tar/0002.png"]
    assert (levels(second), labels(second)) == ([1, 2], [1, 0])
    assert first.understood == second.understood
    sent = pickle.dumps(second.item_name)
    assert len(sent) < 500
    assert pickle.loads(sent)(1) == "a.tar/0002.png"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: make_shard(root / "b.tar", samples([3])),
        lambda root: make_shard(root / "a.tar", samples([2, 1]), age=50),
        lambda root: make_shard(root / "a.tar", samples([1, 2, 3])),
        lambda root: (root / "a.tar").rename(root / "c.tar"),
        lambda root: [f.write_bytes(f.read_bytes()[:-9]) for f in (root / "cache").iterdir()],
    ],
)
def test_any_change_is_seen(tmp_path, readings, change):
    make_shard(tmp_path / "a.tar", samples([1, 2]))
    opened(tmp_path)
    change(tmp_path)
    changed = opened(tmp_path).train
    fresh = open_source(f"wds:{tmp_path}", str(tmp_path / "other")).train
    assert len(readings) > 2
    assert (names(changed), levels(changed)) == (names(fresh), levels(fresh))


def test_a_shard_that_has_just_changed_is_not_trusted(tmp_path, readings):
    make_shard(tmp_path / "a.tar", samples([1, 2]), age=0)
    for _ in range(2):
        opened(tmp_path)
    assert len(readings) == 2
    assert not (tmp_path / "cache").exists()


def test_other_columns_are_another_index(tmp_path):
    make_shard(tmp_path / "a.tar", sample(1, 4) | {"0001.txt": b"7"})
    assert labels(opened(tmp_path).train) == [4]
    assert labels(opened(tmp_path, "", "txt").train) == [7]


def test_workers_refuse_an_index_that_was_made_anew(tmp_path):
    make_shard(tmp_path / "a.tar", samples([1, 2]))
    sent = pickle.dumps(opened(tmp_path).train.read)
    make_shard(tmp_path / "a.tar", samples([2, 1]), age=50)
    opened(tmp_path)
    with pytest.raises(ValueError, match="made anew by another run"):
        pickle.loads(sent)


def test_an_index_that_another_process_made_as_well_is_the_same(tmp_path):
    """Processes of one run start together, and have one cache."""
    make_shard(tmp_path / "a.tar", samples([1, 2], [0, 1]))
    sent = pickle.dumps(opened(tmp_path).train.read)
    (file,) = (tmp_path / "cache").iterdir()
    file.unlink()
    opened(tmp_path)
    assert pickle.loads(sent)(1) == (png(2), 1)


def test_it_is_said_what_is_there(tmp_path):
    make_shard(tmp_path / "train-0.tar", samples([1, 2, 3], [0, 1, ""]) | {"x.txt": b"", "y": b""})
    make_shard(tmp_path / "train-1.tar", samples([1]))
    facts = data_facts(opened(tmp_path))
    assert facts["training images"] == f"4 (.png), 2 shards, {tmp_path}/train-0.tar to train-1.tar"
    assert facts["labels of training images"] == "2 classes by 'cls': 0 1, 1 1; without a label 2"
    assert facts["left out of training images"] == (
        ".txt files: 1 (x.txt); files without an extension: 1 (y); "
        "samples without an image: 1 (train-0.tar/x)"
    )
    assert "1 names that several shards have, each an image of its own (0001.png)" in facts["taken"]
