"""Data in a bucket: what is read is what lies in a folder, whatever the server does."""

import re
import signal
import time

import numpy as np
import pytest

from moco_jax import checkpoint
from moco_jax.bucket import fetched
from moco_jax.data import samples as index
from moco_jax.data.fingerprint import fingerprint
from moco_jax.data.source import open_source
from tests.buckets.test_runs import PATIENT
from tests.faults.runs import LAST, STEP, Run, saved
from tests.shards import make_shard, png, samples, stream

pytestmark = pytest.mark.buckets


def everything(splits):
    return [[(part.item_name(i), *part.read(i)) for i in range(len(part))] for part in splits]


@pytest.fixture
def shards(bucket, tmp_path):
    """A folder of shards, and its copy in a bucket."""
    for n, some in enumerate(([0, 1, 2], [3], [4, 5])):
        make_shard(tmp_path / f"train-{n}.tar", samples(some, [str(level % 3) for level in some]))
    make_shard(tmp_path / "val-0.tar", samples([9], ["1"]))
    place = bucket.path(f"shards-{time.monotonic_ns()}")
    for file in tmp_path.glob("*.tar"):
        (place / file.name).write_bytes(file.read_bytes())
    (place / "readme.txt").write_bytes(b"")
    return tmp_path, place


@pytest.mark.parametrize(
    "pattern", ["", "/", "/*.tar", "/{train-{0..2},val-0}.tar", "/train*::{where}/val-?.tar"]
)
def test_shards_in_a_bucket_are_those_of_the_folder(shards, pattern):
    folder, place = shards
    cache = str(folder / "cache")
    ours = open_source(f"wds:{place}{pattern.replace('{where}', str(place))}", cache)
    theirs = open_source(f"wds:{folder}", cache)
    assert everything(ours) == everything(theirs)
    assert fingerprint(ours) == fingerprint(theirs)
    assert ours.train.read_labels().tolist() == [0, 1, 2, 0, 1, 2]


def test_headers_are_read_once_and_again_when_a_shard_changes(shards, monkeypatch):
    folder, place = shards
    seen, read = [], index.read_shard
    monkeypatch.setattr(index, "read_shard", lambda blob, w: seen.append(blob) or read(blob, w))
    for _ in range(2):
        open_source(f"wds:{place}", str(folder / "cache"))
        assert len(seen) == 4
    time.sleep(1.1)  # an emulator's times are of seconds
    other = (folder / "train-1.tar").read_bytes().replace(png(3), png(7))
    (place / "train-1.tar").write_bytes(other)
    changed = open_source(f"wds:{place}", str(folder / "cache")).train
    assert len(seen) == 7
    assert changed.read(3)[0] == png(7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train-{0..5}.tar", r"3 of 6 are missing, the first: .*/train-3.tar"),
        ("*.zip", "does not exist"),
        ("nothing/here", "does not exist"),
    ],
)
def test_a_missing_shard_is_named(shards, name, message):
    folder, place = shards
    address = (
        str(place.parent.parent / name[6:]) if name.startswith("../../") else f"{place}/{name}"
    )
    with pytest.raises(FileNotFoundError, match=message):
        open_source(f"wds:{address}", str(folder / "cache"))


def test_worker_processes_read_from_a_bucket(bucket, tmp_path):
    place = bucket.path("workers")
    path = make_shard(tmp_path / "a.tar", samples(range(8), range(8)))
    (place / "a.tar").write_bytes(path.read_bytes())
    ours, theirs = stream(place, tmp_path, 4, processes=2), stream(tmp_path, tmp_path, 4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one["crops"], other["crops"])
        np.testing.assert_array_equal(one["label"], other["label"])


# Runs


@pytest.fixture(scope="session")
def images(home, servers):
    """A shard of 80 images in a folder and in each bucket."""
    path = make_shard(home / "shards" / "a.tar", samples(range(80), [n % 3 for n in range(80)]))
    for bucket in servers.values():
        (bucket.path("images") / "a.tar").write_bytes(path.read_bytes())
    return path


def start(home, workdir, source, bucket, **disturbance):
    flags = f"--config.data.source=wds:{source}", f"--config.data.cache_dir={home}/cache"
    return Run(home, workdir, *flags, "--config.data.array_gb=0", "--config.data.threads=2",
               variables=bucket.variables, **disturbance)  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed_images(home, images, servers):
    """A run from the folder."""
    with start(home, home / "from_folder", images, servers["s3"]) as run:
        run.end(0)
    return home / "from_folder"


@pytest.mark.parametrize(
    ("kind", "state"), [("s3", "gone"), ("s3", "failing"), ("s3", "slow"), ("gs", "gone")]
)
def test_a_run_goes_on_when_the_server_does(home, servers, undisturbed_images, kind, state):
    bucket, name = servers[kind], f"{kind}_{state}"
    source = bucket.path("images/a.tar")
    with start(home, home / name, source, bucket, gate=f"{STEP}#2", set=PATIENT) as run:
        run.at_gate()
        bucket.way.state = state
        run.go()
        time.sleep(10)
        bucket.way.state = "open"
        text = run.end(0)
    if state != "slow" and kind == "s3":  # gcsfs tries for longer by itself
        assert "again in" in text
    assert saved(home / name) == saved(undisturbed_images)


def test_workdir_and_images_in_a_bucket_killed_and_resumed(home, bucket, undisturbed_images):
    source, workdir = bucket.path("images/a.tar"), bucket.path("all")
    with start(home, workdir, source, bucket, gate=f"{STEP}#11") as run:
        run.at_gate().signal(signal.SIGKILL)
    with start(home, workdir, source, bucket) as run:
        assert "Resuming at step" in run.end(0)
    with fetched(workdir / "checkpoints" / str(LAST)) as step:
        assert checkpoint.read(step)[1]["checksums"] == saved(undisturbed_images)


@pytest.mark.parametrize("at", [f"{STEP}#2", "moco_jax.data.wds:_samples#1"])
def test_a_server_that_is_gone_ends_the_run_with_75(home, s3, images, at):
    name = at.rpartition(":")[2]
    with start(home, home / name, s3.path("images/a.tar"), s3, gate=at) as run:
        run.at_gate()
        s3.way.state = "gone"
        run.go()
        text = run.end(75)
    s3.way.state = "open"
    assert re.search(r"ERROR: \w+ .*a.tar.* failed \d+ times", text)
    assert "s3://bucket/images/a.tar" in text
    assert "the same command resumes" in text
