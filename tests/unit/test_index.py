"""The list of a folder's images: kept, trusted only while it is right, shared with workers."""

import json
import os
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from moco_jax import config
from moco_jax.data import folder, index, pipeline
from moco_jax.data.source import open_source


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def age(root, seconds=60):
    """Makes the folders look unchanged for a while."""
    then = time.time() - seconds
    for where, _, _ in os.walk(root):
        os.utime(where, (then, then))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "images"
    for name in ("b/deep/2.png", "b/1.png", "a/é\udcff.png", "empty/.keep.png"):
        save_image(root / name)
    age(root)
    return root


@pytest.fixture
def listings(monkeypatch):
    """The folders that were listed rather than known."""
    seen, listing = [], folder._list
    monkeypatch.setattr(folder, "_list", lambda root: seen.append(root) or listing(root))
    return seen


def read_all(source):
    return [(source.item_name(i), *source.read(i)) for i in range(len(source))]


def test_the_second_opening_does_not_list(root, tmp_path, listings):
    first, second = (open_source(f"folder:{root}", str(tmp_path / "cache")).train for _ in range(2))
    assert len(listings) == 1
    assert len(first) == 3
    assert read_all(first) == read_all(second)
    assert first.class_names == second.class_names == ("a", "b")
    assert [second.read(i)[1] for i in range(3)] == [0, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: save_image(root / "c" / "new.png"),
        lambda root: save_image(root / "b" / "deep" / "new.png"),
        lambda root: save_image(root / "empty" / "new.png"),
        lambda root: (root / "b" / "1.png").unlink(),
        lambda root: (root / "b" / "1.png").rename(root / "b" / "3.png"),
        lambda root: (root / "b").rename(root / "z"),
    ],
)
def test_any_change_of_the_files_is_seen(root, tmp_path, listings, change):
    spec, cache = f"folder:{root}", str(tmp_path / "cache")
    open_source(spec, cache)
    change(root)
    changed = open_source(spec, cache).train
    fresh = open_source(spec, str(tmp_path / "other")).train
    assert len(listings) == 3
    assert read_all(changed) == read_all(fresh)


def test_a_folder_that_has_just_changed_is_not_trusted(root, tmp_path, listings):
    os.utime(root / "b")
    for _ in range(2):
        open_source(f"folder:{root}", str(tmp_path / "cache"))
    assert len(listings) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"{}\n", lambda data: b""])
def test_a_damaged_list_is_made_anew(root, tmp_path, listings, damage):
    spec, cache = f"folder:{root}", tmp_path / "cache"
    expected = read_all(open_source(spec, str(cache)).train)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert read_all(open_source(spec, str(cache)).train) == expected
    assert len(listings) == 2


def test_what_was_left_out_is_kept_with_the_list(root, tmp_path, listings):
    for name in ("b/notes.txt", "b/deep/.hidden", "empty/more.txt"):
        (root / name).write_text("")
    age(root)
    cache = str(tmp_path / "cache")
    first, second = (open_source(f"folder:{root}", cache).train for _ in range(2))
    assert len(listings) == 1
    assert first.understood == second.understood
    assert second.understood.kinds == {".png": 3}
    assert second.understood.left_out == {
        ".txt files": (2, "b/notes.txt"), "hidden files and folders": (2, "b/deep/.hidden"),
        "folders without images": (1, "empty"),
    }  # fmt: skip


@pytest.mark.parametrize("version", [None, 2, 99])
def test_a_list_of_another_version_is_made_anew(root, tmp_path, listings, version):
    cache = tmp_path / "cache"
    open_source(f"folder:{root}", str(cache))
    (file,) = cache.iterdir()
    head, _, rest = file.read_bytes().partition(b"\n")
    head = json.loads(head) | {"version": version}
    file.write_bytes(json.dumps(head).encode() + b"\n" + rest)
    open_source(f"folder:{root}", str(cache))
    assert len(listings) == 2


def test_what_may_be_mended_unseen_is_looked_at_each_time(root, tmp_path, listings):
    """A link that leads nowhere leads somewhere once its disk is there."""
    (root / "b" / "link.png").symlink_to(tmp_path / "disk" / "4.png")
    age(root)
    cache = str(tmp_path / "cache")
    assert len(open_source(f"folder:{root}", cache).train) == 3
    save_image(tmp_path / "disk" / "4.png")
    assert len(open_source(f"folder:{root}", cache).train) == 4
    assert len(listings) == 2


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    source = open_source(f"folder:{root}", str(tmp_path / "file" / "cache")).train
    assert len(read_all(source)) == 3
    assert "is not kept" in caplog.text
    assert read_all(pickle.loads(pickle.dumps(source))) == read_all(source)


def test_workers_map_the_list_rather_than_copy_it(root, tmp_path):
    for i in range(300):
        (root / "b" / f"a_long_name_for_an_image_{i:06}.png").touch()
    age(root)
    source = open_source(f"folder:{root}", str(tmp_path / "cache")).train
    sent = pickle.dumps(source)
    assert len(sent) < 2000
    assert pickle.loads(sent).item_name(200) == source.item_name(200)
    (root / "b" / "1.png").unlink()
    age(root, 30)
    open_source(f"folder:{root}", str(tmp_path / "cache"))  # another run, another list
    with pytest.raises(ValueError, match="made anew by another run"):
        pickle.loads(sent)


def test_the_config_says_where_the_list_is_kept(root, tmp_path):
    data = config.default().data
    data.update(source=f"folder:{root}", cache_dir=str(tmp_path / "mine"))
    pipeline.open_data(data)
    assert len(list((tmp_path / "mine").glob("images-*.index"))) == 1


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert index.cache_file("", "/x/train").parent == tmp_path / "moco_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert index.cache_file("", "/x/train").parent == tmp_path / "home" / ".cache" / "moco_jax"
    assert index.cache_file("/mine", "/x/a").name != index.cache_file("/mine", "/y/a").name


def test_a_cache_in_a_bucket_is_refused(root):
    with pytest.raises(ValueError, match=r"data.cache_dir='gs:/.*: gs:// is not supported"):
        open_source(f"folder:{root}", "gs://bucket/cache")
