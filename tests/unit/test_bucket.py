"""Paths in a bucket, of fsspec's memory, and the files of a run there."""

import errno
import pathlib

import pytest

from moco_jax import bucket, files, metrics, places, report, results
from moco_jax.errors import InputError, MissingError, StorageError
from moco_jax.tensorboard import Board
from tests import runs
from tests.memory import broken, empty_bucket


@pytest.fixture
def workdir(monkeypatch):
    return empty_bucket(monkeypatch)


@pytest.mark.parametrize(
    ("text", "shown", "name"),
    [("gs://b/run", "gs://b/run", "run"), ("s3://b//run/", "s3://b/run", "run"),
     (pathlib.Path("gs://b/run/x.json"), "gs://b/run/x.json", "x.json")],
)  # fmt: skip
def test_addresses(text, shown, name):
    path = bucket.place("workdir", text)
    assert (str(path), path.name) == (shown, name)
    assert str(path / "a/b") == f"{shown}/a/b"
    assert path.with_name("other") == path.parent / "other"
    with pytest.raises(TypeError):
        pathlib.Path(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("gcs://b/run", "gcs:// is not supported; .* gs:// or s3://"), ("gs://", "no bucket"),
     ("https://h/run", "https:// is not supported")],
)  # fmt: skip
def test_addresses_that_are_none(text, message):
    with pytest.raises(InputError, match=f"workdir='{text}': {message}"):
        files.prepare_workdir(text)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), FileNotFoundError),
        (OSError("Forbidden: b/x"), PermissionError),
        (type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})("x"),
         PermissionError),
        (type("HttpError", (Exception,), {"__module__": "gcsfs.retry", "code": 503})("x"),
         places.BucketError),
        (OSError(errno.EBUSY, "SlowDown"), places.BucketError),
        (TimeoutError(), places.BucketError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)  # fmt: skip
def test_errors_of_clients_become_ours(error, kind):
    with pytest.raises(kind) as found, places.translated("gs://b/x"):
        raise error
    assert type(found.value) is kind
    if kind is not ZeroDivisionError:
        assert found.value.filename == "gs://b/x"
    assert files.is_trouble(found.value) == (kind is places.BucketError)


def test_paths_do_as_pathlib_does(workdir, tmp_path):
    (workdir / "a/b").write_bytes(b"0123")
    (workdir / "a/c/d").write_bytes(b"")
    with pytest.raises(FileExistsError):
        (workdir / "a/b").create(b"")
    assert (workdir / "a/b").read_bytes(1, 3) == b"12"
    assert (workdir / "a").is_dir()
    assert (workdir / "a/b").is_file()
    assert (workdir / "a/b").size() == 4
    assert not (workdir / "b").exists()
    assert [path.name for path in (workdir / "a").iterdir()] == ["b", "c"]
    (workdir / "a").rename(workdir / "z")
    assert workdir.walk() == ["z/b", "z/c/d"]
    with bucket.fetched(workdir) as here:
        assert {p.name for p in here.rglob("*")} == {"z", "b", "c", "d"}
    assert not here.exists()
    (workdir / "z").rmtree()
    with pytest.raises(FileNotFoundError, match="memory://bucket/run/z/b"):
        (workdir / "z/b").read_bytes()


def test_a_bucket_that_is_not_there_is_wrong_input(workdir, monkeypatch):
    with (
        broken(monkeypatch, "pipe_file", FileNotFoundError("no such bucket")),
        pytest.raises(InputError, match=r"workdir='memory.*run' cannot be written: .*bucket"),
    ):
        files.prepare_workdir(str(workdir))


def test_one_that_does_not_answer_may_later(workdir, monkeypatch):
    away = OSError(errno.EREMOTEIO, "away")
    with broken(monkeypatch, "pipe_file", away, times=2):
        assert files.prepare_workdir(workdir) == workdir
    message = r"Making workdir memory://bucket/run failed 3 times.*away.*memory://bucket/run/.probe"
    with (
        broken(monkeypatch, "pipe_file", away),
        pytest.raises(StorageError, match=message),
    ):
        files.prepare_workdir(workdir)
    assert workdir.walk() == []


def test_a_bucket_is_tried_for_longer_than_a_disk(workdir, monkeypatch):
    monkeypatch.setattr(files, "BUCKET_SECONDS", 1e9)
    with broken(monkeypatch, "pipe_file", OSError("away"), times=20):
        files.write(workdir / "x", b"")
    assert (workdir / "x").read_bytes() == b""


def test_rows_are_in_the_bucket_at_once_and_rewound(workdir):
    writer = metrics.Writer(workdir, 0, tensorboard=True)
    for step in range(3):
        writer.write({"step": step, "loss": float(step)})
        assert [row["step"] for row in metrics.read(workdir)] == list(range(step + 1))
    writer.close()
    metrics.Writer(workdir, 1, tensorboard=False)
    assert [row["step"] for row in metrics.read(workdir)] == [0, 1]
    assert b'"step": 2' in (workdir / "metrics.superseded.jsonl").read_bytes()


def test_events_are_those_of_a_local_file(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.0)
    contents = []
    for place in (workdir, tmp_path):
        board = Board(place / "tensorboard", 0)
        board.write({"loss": 1.5, "rate": 2.0}, 1)
        (file,) = (place / "tensorboard").iterdir()
        contents.append(file.read_bytes())
        board.close()
    assert contents[0] == contents[1] != b""


def test_results_are_not_taken_for_damaged_when_the_bucket_is_away(workdir, monkeypatch):
    facts = {"protocol": "", "settings": {}, "seed": 0, "split": "", "examples": 1, "metrics": {}}
    results.add(workdir, "knn", **facts)
    with (
        broken(monkeypatch, "cat_file", OSError("away")),
        pytest.raises(StorageError, match=r"Reading memory://.*/results.json failed"),
    ):
        results.add(workdir, "linear", **facts)
    results.add(workdir, "linear", **facts)
    assert [record["evaluation"] for record in results.read(workdir)] == ["knn", "linear"]
    assert workdir.walk() == ["results.json"]


def test_a_report_is_read_and_written_there(workdir, tmp_path):
    local = runs.write_run(tmp_path / "run")
    for file in local.rglob("*"):
        if file.is_file():
            (workdir / file.relative_to(local).as_posix()).upload(file)
    assert str(report.write(str(workdir))) == "memory://bucket/run/report.html"
    assert b"<html" in (workdir / report.FILE).read_bytes()
    with pytest.raises(MissingError, match="memory://bucket/none is not the workdir of a run"):
        report.write("memory://bucket/none")
