"""Small encoded images become arrays, exactly when they can."""

import errno
import shutil

import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import decoding, folder, pipeline
from moco_jax.data.source import ArraySource, EncodedSource


def write(root, split, count, size=(20, 24)):
    rng = np.random.default_rng(count)
    for i in range(count):
        path = root / split / f"class{i % 3}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "images", "train", 31)
    write(tmp_path / "images", "val", 5)
    return tmp_path / "images"


def opened(root, **overrides):
    data = config.default().data
    data.update({"source": f"folder:{root}", "threads": 2} | overrides)
    return pipeline.open_data(data)


def test_small_images_of_one_size_become_arrays(root):
    encoded = opened(root, array_gb=0.0)
    for array, source in zip(opened(root), encoded):
        assert isinstance(array, ArraySource)
        assert isinstance(source, EncodedSource)
        contents, labels = zip(*map(source.read, range(len(source))))
        np.testing.assert_array_equal(
            array.images, np.stack([decoding.decode(c) for c in contents])
        )
        np.testing.assert_array_equal(array.labels, labels)
        assert (array.name, array.class_names) == (source.name, source.class_names)
        assert array.labels.dtype == np.int32


def test_without_labels_and_without_a_test_part(tmp_path):
    write(tmp_path, "train", 3)
    for path in list(tmp_path.rglob("*.png")):
        path.rename(tmp_path / path.name)
    shutil.rmtree(tmp_path / "train")
    train, test = opened(tmp_path)
    assert isinstance(train, ArraySource)
    assert (train.labels, train.labelled, test) == (None, False, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write(root, "val", 1, (20, 25)),
        lambda root: write(root, "train", 18, (21, 24)),  # among those that are not probed, too
        lambda root: (root / "train" / "class0" / "000.png").write_bytes(b""),
        lambda root: (root / "train" / "class2" / "005.png").write_bytes(b"no image"),
        lambda root: [write(root, split, 40, (20, 65)) for split in ("train", "val")],
    ],
)
def test_other_images_stay_encoded(root, change):
    change(root)
    assert all(isinstance(part, EncodedSource) for part in opened(root))


def test_the_limit_counts_both_parts(root):
    size = 36 * 20 * 24 * 3 / 1e9
    assert isinstance(opened(root, array_gb=size).train, ArraySource)
    assert isinstance(opened(root, array_gb=size * 0.999).train, EncodedSource)


def test_trouble_while_looking_at_sizes_is_no_other_size(root, monkeypatch):
    """What comes at the second attempt is read, and decides as it would have."""
    failed = set()
    read, _ = folder._read, monkeypatch.setattr("time.sleep", lambda _: None)

    def shaky(images, numbers, i):
        if i not in failed:
            failed.add(i)
            raise OSError(errno.EIO, "Input/output error")
        return read(images, numbers, i)

    monkeypatch.setattr(folder, "_read", shaky)
    assert isinstance(opened(root).train, ArraySource)
    assert len(failed) == 31
