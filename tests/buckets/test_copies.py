"""Sources whose libraries read files: copied from a bucket once, and what changes again."""

import numpy as np
import pytest

from moco_jax.data.source import open_source
from tests import tiny_tfds
from tests.folders import labels, levels
from tests.tiny import write_npz

pytestmark = pytest.mark.buckets


def upload(folder, place):
    for file in filter(lambda file: file.is_file(), folder.rglob("*")):
        (place / str(file.relative_to(folder))).write_bytes(file.read_bytes())


@pytest.fixture
def downloads(monkeypatch):
    """The names of what was copied."""
    from moco_jax.data import copies

    seen, download = [], copies._download

    def noting(folder, name, blob):
        seen.append(name)
        return download(folder, name, blob)

    monkeypatch.setattr(copies, "_download", noting)
    return seen


def test_an_npz_is_copied_once(bucket, tmp_path, downloads):
    write_npz(tmp_path / "a.npz", 8)
    place = bucket.path("arrays/a.npz")
    place.write_bytes((tmp_path / "a.npz").read_bytes())
    local = open_source(f"npz:{tmp_path}/a.npz").train
    for _ in range(2):
        source = open_source(f"npz:{place}", str(tmp_path / "cache")).train
        np.testing.assert_array_equal(source.images, local.images)
    assert downloads == ["a.npz"]
    assert source.name == f"npz:{place}"
    write_npz(tmp_path / "a.npz", 9)
    place.write_bytes((tmp_path / "a.npz").read_bytes())
    assert len(open_source(f"npz:{place}", str(tmp_path / "cache")).train) == 9


def test_records_of_tfds_are_copied_once(bucket, tmp_path, downloads, monkeypatch):
    tiny_tfds.write_files(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    local = open_source("tfds:tiny_images")
    upload(tmp_path / "tiny_images", bucket.path("tfds/tiny_images"))
    bucket.path("tfds/tiny_images/0.9.0/dataset_info.json").write_bytes(b"{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(bucket.path("tfds")))
    for name in ("tiny_images", "tiny_images:1.0.0"):
        ours = open_source(f"tfds:{name}", str(tmp_path / "cache"))
        for one, other in zip(ours, local, strict=True):
            assert (levels(one), labels(one)) == (levels(other), labels(other))
    files = sorted(p.name for p in (tmp_path / "tiny_images" / "1.0.0").iterdir())
    assert sorted(downloads) == files
    for name, message in (
        ("tiny_images:0.9.0", "has no array_record files"),
        ("tiny_images:2.0.0", "versions there: 0.9.0, 1.0.0"),
        ("tiny_imagse", "does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_source(f"tfds:{name}", str(tmp_path / "cache"))


def test_parquet_of_hugging_face_is_copied_once(bucket, tmp_path, downloads, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from tests.shards import png

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    for split, some in (("train", [1, 2, 3]), ("test", [4])):
        rows = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in some],
                "label": [n % 2 for n in some]}  # fmt: skip
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    upload(tmp_path / "data", bucket.path("parquet/data"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    for _ in range(2):
        splits = open_source(f"hf:{bucket.path('parquet')}", str(tmp_path / "cache"))
        assert list(map(levels, splits)) == [[1, 2, 3], [4]]
        assert list(map(labels, splits)) == [[1, 0, 1], [0]]
    assert sorted(downloads) == ["data/test-0.parquet", "data/train-0.parquet"]


def test_a_disk_without_room_is_said_before(bucket, tmp_path, monkeypatch):
    import shutil

    write_npz(tmp_path / "a.npz", 8)
    bucket.path("room/a.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ValueError, match=r"has room for 0.0 GB; expected data.cache_dir"):
        open_source(f"npz:{bucket.path('room/a.npz')}", str(tmp_path / "cache"))
