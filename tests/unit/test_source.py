"""Every kind of source, and what is refused at the door."""

import gzip
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from moco_jax.data import arrays, decoding, fashion, subset
from moco_jax.data.source import EncodedSource, open_source
from tests import tiny_tfds
from tests.folders import labels, levels, make_folder, names, save_image

ROOT = pathlib.Path(__file__).parent.parent.parent


# The one string


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fodler:/x", "'fodler' is not one of.*did you mean 'folder'"),
        ("", "is not one of embedded, folder, hf, npz, tfds, wds"),
        ("folder:", "expected 'folder:PATH'"),
        ("npz", "expected 'npz:PATH'"),
        ("tfds", "expected 'tfds:NAME'"),
        ("hf:", "expected 'hf:NAME_OR_PATH'"),
        ("embedded:10", "expected 'embedded'"),
        ("folder:gs://bucket/images", "too slow in a bucket; expected tar shards .*wds:gs://"),
        ("npz:ftp://host/a.npz", "ftp:// is not supported; expected .*gs:// or s3://"),
        ("hf:ftp://host/data", "ftp:// is not supported"),
    ],
)
def test_a_malformed_name_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_missing_path_names_its_nearest_sibling(tmp_path, kind):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(FileNotFoundError, match=r"flowres/a does not exist.*mean '.*/flowers'"):
        open_source(f"{kind}:{tmp_path}/flowres/a")


# Embedded


def test_the_embedded_set_has_the_first_images_of_each_class():
    train, test = open_source("embedded")
    assert (len(train), len(test)) == (10_000, 2_000)
    assert train.images.shape == (10_000, 28, 28, 1)
    assert train.images.dtype == np.uint8
    assert (train.channels, train.image_shape, train.labelled) == (1, (28, 28), True)
    assert np.bincount(train.labels).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    # The first labels of the published files.
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert train.labels.dtype == np.int32
    assert train.class_names == test.class_names == fashion.CLASS_NAMES
    file = pathlib.Path(arrays.__file__).parent / "embedded" / "fashion_mnist.npz"
    assert file.stat().st_size < 6e6


# Folders


def test_class_folders_are_labels_in_sorted_order(tmp_path):
    spec = make_folder(tmp_path, "b/2.PNG", "b/10.jpeg", "a/deep/er/1.webp", "a/z.JPG", "c/1.bmp")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    save_image(tmp_path / ".cache" / "1.png")
    train, test = open_source(spec)
    assert test is None
    assert isinstance(train, EncodedSource)
    assert train.class_names == ("a", "b", "c")
    assert names(train) == ["1.webp", "z.JPG", "10.jpeg", "2.PNG", "1.bmp"]
    assert levels(train) == [2, 3, 1, 0, 4]
    assert labels(train) == [0, 0, 1, 1, 2]
    assert (train.labelled, train.channels, train.image_shape) == (True, 3, None)


def test_a_flat_folder_has_no_labels(tmp_path):
    train, test = open_source(make_folder(tmp_path, "b.png", "a.png"))
    assert (test, train.labelled, train.class_names) == (None, False, ())
    assert labels(train) == [-1, -1]
    assert names(train) == ["a.png", "b.png"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_train_and_val_folders(tmp_path, val):
    spec = make_folder(tmp_path, "train/a/1.png", "train/b/1.png", f"{val}/b/2.png", "stray.png")
    train, test = open_source(spec)
    assert labels(train) == [0, 1]
    assert labels(test) == [1]  # the number that "b" has in train
    assert test.class_names == ("a", "b")


def test_train_without_val_and_val_preferred_to_test(tmp_path):
    spec = make_folder(tmp_path, "train/1.png", "train/2.png")
    train, test = open_source(spec)
    assert (len(train), test) == (2, None)
    make_folder(tmp_path, "test/x.png", "val/y.png")
    assert names(open_source(spec).test) == ["y.png"]


def test_val_classes_without_train_classes_are_dropped(tmp_path):
    test = open_source(make_folder(tmp_path, "train/1.png", "val/a/1.png")).test
    assert (test.labelled, test.class_names, labels(test)) == (False, (), [-1])


def test_a_class_that_only_val_has_is_refused(tmp_path):
    spec = make_folder(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cats/1.png")
    with pytest.raises(ValueError, match=r"class 'cats' is not among the 2.*nearest.*'cat'"):
        open_source(spec)


def test_val_without_train_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"look like splits but no 'train' beside them \('val'\).*folder:.*/val"
    ):
        open_source(make_folder(tmp_path, "val/a/1.png"))


def test_images_beside_class_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'1.png' and 0 more.*'a' and 0 more"):
        open_source(make_folder(tmp_path, "1.png", "a/1.png"))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"holds no image.*\.jpg.*it holds .txt files: 1 \(notes.txt\)"
    ):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        open_source(f"folder:{tmp_path}/notes.txt")


def test_a_folder_source_can_be_sent_to_another_process(tmp_path):
    train = open_source(make_folder(tmp_path, "a.png")).train
    assert pickle.loads(pickle.dumps(train)).read(0) == train.read(0)


# TFDS


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    tiny_tfds.write_files(folder)
    yield folder
    del os.environ["TFDS_DATA_DIR"]


def test_tfds_is_prepared_and_read_without_tensorflow(tfds_dir, tmp_path):
    # An importable stand-in, so that whoever imports TensorFlow is seen also where it is missing.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("")
    program = """
import sys, tests.tiny_tfds
from moco_jax.data import decoding, host_crop
from moco_jax.data.source import open_source
train, test = open_source("tfds:tiny_images")
assert decoding.decode(train.read(0)[0]).shape == (30, 40, 3)
assert "tensorflow" not in sys.modules
import tensorflow
assert "tensorflow" in sys.modules
print(len(train), len(test))
"""
    path = os.pathsep.join(map(str, [tmp_path, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["20", "6"]


def test_tfds_images_come_with_their_labels(tfds_dir):
    train, test = open_source("tfds:tiny_images:1.0.0")
    assert (len(train), len(test)) == (tiny_tfds.COUNTS["train"], tiny_tfds.COUNTS["validation"])
    assert sorted(levels(train)) == [10 * i for i in range(20)]
    assert labels(train) == [level // 10 % 2 for level in levels(train)]
    assert (train.labelled, train.class_names, train.channels) == (True, ("even", "odd"), 3)
    assert train.item_name(3) == f"tfds:tiny_images:1.0.0 train[3] {levels(train)[3] // 10}.png"
    np.testing.assert_array_equal(subset.labels_of(train), labels(train))
    part = subset.label_share(train, 0.3, seed=0)
    np.testing.assert_array_equal(subset.labels_of(part), labels(part))
    assert sorted(labels(part)) == [0, 0, 0, 1, 1, 1]
    assert pickle.loads(pickle.dumps(train)).read(1) == train.read(1)


def test_an_unknown_tfds_name_names_the_nearest(tfds_dir):
    with pytest.raises(ValueError, match=r"no data set 'imagnet2012'.*'tfds:imagenet2012'"):
        open_source("tfds:imagnet2012")


def test_tfrecord_files_are_refused_with_the_way_to_convert_them(tfds_dir, tmp_path, monkeypatch):
    open_source("tfds:tiny_images")
    (tmp_path / "tiny_images").mkdir()
    folder = tmp_path / "tiny_images" / "1.0.0"
    (tfds_dir / "tiny_images" / "1.0.0").rename(folder)
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        with pytest.raises(ValueError, match=r"as tfrecord.*tfds convert_format --dataset_version"):
            open_source("tfds:tiny_images")
    finally:
        (folder / "dataset_info.json").write_text(json.dumps(info))
        folder.rename(tfds_dir / "tiny_images" / "1.0.0")


# The script behind the embedded set


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 200), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.arange(count).astype(np.uint8) % 10)
    return tmp_path


def test_fashion_as_npz_and_as_folder_are_the_same_images(idx_folder, tmp_path, monkeypatch):
    npz, png = tmp_path / "out.npz", tmp_path / "out"
    arguments = [str(idx_folder), "--npz", str(npz), "--png", str(png), "--count", "50"]
    monkeypatch.setattr(sys, "argv", ["fashion", *arguments])
    fashion.main()
    from_npz, from_png = open_source(f"npz:{npz}"), open_source(f"folder:{png}")
    for array, encoded, count in zip(from_npz, from_png, (50, 10)):
        assert len(array) == len(encoded) == count
        order = np.argsort(array.labels, kind="stable")
        assert labels(encoded) == array.labels[order].tolist()
        decoded = np.stack([decoding.decode(encoded.read(i)[0]) for i in range(count)])
        np.testing.assert_array_equal(decoded[..., :1], array.images[order])
    assert from_npz.train.class_names == fashion.CLASS_NAMES
    # In file order, the first five of each class.
    np.testing.assert_array_equal(from_npz.train.labels, np.arange(50) % 10)


def test_an_idx_file_cut_short_is_refused(idx_folder):
    file = idx_folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(ValueError, match="cut short"):
        fashion.read_idx(file)
