"""Shards that are not as they should be: said and counted, never read wrong."""

import gzip
import io
import os
import subprocess
import tarfile
import threading

import numpy as np
import pytest

from moco_jax.data import blobs
from moco_jax.data.shard import Wanted, read_shard
from moco_jax.data.source import open_source
from moco_jax.errors import InputError, StorageError
from tests.folders import levels
from tests.shards import make_shard, png, sample, samples


def shard_of(path):
    (blob,) = blobs.find("x", str(path), ".tar")
    return read_shard(blob, Wanted())


def left_out(source):
    return {reason: count for reason, (count, _) in source.understood.left_out.items()}


def damaged(tmp_path, change, levels=(1, 2, 3)):
    """A shard whose bytes were changed, beside a good one."""
    path = make_shard(tmp_path / "b.tar", samples(list(levels)))
    path.write_bytes(change(path.read_bytes()))
    make_shard(tmp_path / "a.tar", samples([0]))
    return open_source(f"wds:{tmp_path}", str(tmp_path / "cache")).train


MEMBER = 1024  # bytes that a header and a small image take


@pytest.mark.parametrize(
    ("change", "found", "reason"),
    [
        (lambda data: data[: 2 * MEMBER + 530], [0, 1, 2], "shards damaged or cut short"),
        (lambda data: data[: 2 * MEMBER + 100], [0, 1, 2], "shards damaged or cut short"),
        (lambda data: data[: MEMBER + 530], [0, 1], "shards damaged or cut short"),
        (lambda data: data[:MEMBER] + b"x" * 512 + data[MEMBER + 512 :], [0, 1], "shards damaged"),
        (lambda data: data[: 3 * MEMBER], [0, 1, 2, 3], None),
        (lambda data: data + data, [0, 1, 2, 3], "shards with something after its end"),
        (lambda data: b"", [0], "files that are no tar"),
        (lambda data: b"<html>" * 500, [0], "files that are no tar"),
        (lambda data: b"\0" * 10_240, [0], None),
        (lambda data: data[:100], [0], "files that are no tar"),
    ],
)
def test_a_damaged_shard_is_used_up_to_there(tmp_path, change, found, reason):
    source = damaged(tmp_path, change)
    assert levels(source) == found
    reasons = left_out(source)
    assert len(reasons) == (reason is not None)
    assert all(one.startswith(reason) and count == 1 for one, count in reasons.items())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_damaged_no_image_is_read_wrong(tmp_path, seed):
    """A byte that is changed in a header or in an image costs that sample, or those from there."""
    rng, path = np.random.default_rng(seed), tmp_path / "a.tar"
    whole = samples(range(6), range(6))
    content = make_shard(path, whole).read_bytes()
    for _ in range(60):
        changed = bytearray(content)
        changed[rng.integers(len(whole) * MEMBER)] ^= 1 << rng.integers(8)
        path.write_bytes(changed[: rng.integers(len(changed) // 2, len(changed) + 1)])
        shard = shard_of(path)
        for name, (offset, size) in zip(shard.names, shard.places):
            assert offset + size <= path.stat().st_size
            assert name not in whole or size == len(whole[name])


@pytest.mark.parametrize("pack", [gzip.compress])
def test_a_compressed_shard_is_refused(tmp_path, pack):
    path = make_shard(tmp_path / "a.tar", samples([1]))
    path.write_bytes(pack(path.read_bytes()))
    with pytest.raises(InputError, match=r"a.tar is compressed \(gzip\).*plain .tar: unpack it"):
        shard_of(path)


@pytest.mark.parametrize(
    ("files", "found", "reasons"),
    [
        ([("1.png", png(1)), ("1.png", png(2))], [1], {"names that a shard has twice": 1}),
        ([("1.cls", b"1"), ("2.png", png(2))], [2],
         {"samples without an image": 1, ".cls files": 1}),
        ([("1.png", png(1)), ("._1.png", b""), (".x/2.png", b"")], [1],
         {"hidden files and folders": 2}),
        ([("./1.png", png(1)), ("__MACOSX/2.png", b"")], [1], {"system folders": 1}),
        ([("1.png", png(1)), ("README", b"")], [1], {"files without an extension": 1}),
        ([("1.PNG", png(1)), ("a/1.png", png(2)), ("b/1.png", png(3))], [1, 2, 3], {}),
        ([("1.png", png(1)), ("1.mp4", b""), ("1.npy", b"")], [1],
         {".mp4 files": 1, ".npy files": 1}),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted(tmp_path, files, found, reasons):
    make_shard(tmp_path / "a.tar", files)
    source = open_source(f"wds:{tmp_path}", str(tmp_path / "cache")).train
    assert levels(source) == found
    assert left_out(source) == reasons


def test_members_that_are_no_files_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "d.png"), (tarfile.SYMTYPE, "l.png"),
                           (tarfile.LNKTYPE, "h.png"), (tarfile.FIFOTYPE, "p.png")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.png"
            tar.addfile(info)
        info = tarfile.TarInfo("1.png")
        info.size = len(png(1))
        tar.addfile(info, io.BytesIO(png(1)))
    source = open_source(f"wds:{tmp_path}", str(tmp_path / "cache")).train
    assert levels(source) == [1]
    assert left_out(source) == {"links, pipes, sockets or devices": 3}


def test_a_shard_of_gnu_tar_is_read(tmp_path):
    for name, content in samples([1, 2], [3, 4]).items():
        (tmp_path / name).write_bytes(content)
    subprocess.run(["tar", "--sort=name", "-cf", "x.tar", "."], cwd=tmp_path, check=True)
    source = open_source(f"wds:{tmp_path}/x.tar", str(tmp_path / "cache")).train
    assert (levels(source), source.read_labels().tolist()) == ([1, 2], [3, 4])


@pytest.mark.parametrize("size", [1000, 200_000])
def test_little_more_than_headers_is_read(tmp_path, monkeypatch, size):
    """Of large images only the headers and labels; of small ones everything, in few parts."""
    files = {}
    for i in range(40):
        files |= {f"{i}.jpg": os.urandom(size), f"{i}.cls": b"1"}
    path, parts, read = make_shard(tmp_path / "a.tar", files), [], blobs.read
    monkeypatch.setattr(blobs, "read", lambda *part: parts.append(part) or read(*part))
    shard = shard_of(path)
    assert len(shard.names) == len(shard.columns["cls"]) == 40
    whole = path.stat().st_size
    if size > 100_000:
        assert sum(count for *_, count in parts) < whole / 10
        assert len(parts) <= 42
    else:
        assert sum(count for *_, count in parts) <= whole
        assert len(parts) <= 4


def test_a_file_system_in_trouble_is_no_damaged_shard(tmp_path, monkeypatch):
    path = make_shard(tmp_path / "a.tar", sample(1))
    tries, pauses = [], []

    def fail(*part):
        tries.append(part)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(blobs, "read", fail)
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(StorageError, match=r"Reading .*a.tar failed 6 times"):
        shard_of(path)
    assert len(tries) == 6
    assert pauses == sorted(pauses)


def test_a_place_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    """As of a network that is gone, while the headers are read."""
    path, gone = make_shard(tmp_path / "a.tar", sample(1)), threading.Event()
    monkeypatch.setattr(os, "pread", lambda *_: gone.wait())
    with pytest.raises(StorageError, match=rf"read_seconds=0.2 from {path}"):
        open_source(f"wds:{tmp_path}", str(tmp_path / "cache"), "", "", 0.2)
    gone.set()
