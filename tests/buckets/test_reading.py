"""Clients and commands on buckets of real protocols."""

import concurrent.futures

import pytest

import moco_jax
from moco_jax import places, results
from moco_jax.checkpoint.bucketed import steps
from moco_jax.commands import features, knn
from moco_jax.commands import report as report_command
from moco_jax.errors import InputError
from moco_jax.files import prepare_workdir

pytestmark = pytest.mark.buckets


@pytest.fixture
def workdir(bucket, undisturbed):
    """A copy of a local workdir."""
    path = bucket.path("copied")
    for file in (p for p in undisturbed.rglob("*") if p.is_file()):
        (path / file.relative_to(undisturbed).as_posix()).upload(file)
    return path


def test_commands_read_a_run_and_its_checkpoint(workdir, undisturbed, tmp_path):
    there = moco_jax.load(str(workdir))
    here = moco_jax.load(undisturbed)
    assert there.digest == here.digest
    step = f"{workdir}/checkpoints/{steps(workdir / 'checkpoints')[-1]}"
    assert moco_jax.load(step).digest == here.digest
    assert report_command.main([str(workdir)]) == 0
    assert b"<html" in (workdir / "report.html").read_bytes()
    before = len(results.read(workdir))
    assert knn.main([f"--checkpoint={workdir}", "--k=3"]) == 0
    assert len(results.read(workdir)) > before
    out = tmp_path / "features.npz"
    assert features.main([f"--checkpoint={workdir}", f"--out={out}"]) == 0
    assert out.exists()
    assert features.main([f"--checkpoint={workdir}", f"--out={workdir}/features.npz"]) == 2


def test_objects_of_any_size(bucket, tmp_path):
    """60 MB are sent in parts."""
    path, big = bucket.path("objects/big"), tmp_path / "big"
    big.write_bytes(b"0123456789" * 6_000_000)
    path.upload(big)
    assert path.size() == 60_000_000
    assert path.read_bytes(10, 15) == b"01234"
    path.rename(bucket.path("objects/moved"))
    bucket.path("objects/moved").download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert bucket.path("objects").walk() == ["moved"]
    for method in ("read_bytes", "size", "unlink"):
        if (bucket.kind, method) != ("s3", "unlink"):  # which tells nothing
            with pytest.raises(FileNotFoundError):
                getattr(path, method)()


def test_one_of_many_makes_a_new_object(s3):
    """The server for gs:// knows no conditions."""

    def make(number):
        try:
            s3.path("new").create(b"%d" % number)
        except FileExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(8))) == 1


def test_a_bucket_that_does_not_exist(bucket):
    with pytest.raises(InputError, match=r"none/run' cannot be written: .*none/run/.probe"):
        prepare_workdir(f"{bucket.kind}://none/run")


def test_a_server_that_is_away_is_named(s3):
    s3.way.state = "gone"
    with pytest.raises(places.BucketError, match=r"Could not connect.*s3://bucket/x"):
        s3.path("x").write_bytes(b"")
