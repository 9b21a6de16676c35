"""Files of a run: retried, whole or not at all, damaged ones left out."""

import errno
import os

import numpy as np
import pytest

from moco_jax import files
from moco_jax.errors import InputError, MissingError, StorageError


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that would have been made."""
    made = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


def failing(error, times):
    left = iter([error] * times)

    def action():
        if error := next(left, None):
            raise error
        return "done"

    return action


def test_trouble_that_passes_is_survived_with_growing_pauses(pauses, caplog):
    error = OSError(errno.ENOSPC, "No space left on device", "/run/x")
    assert files.retrying("writing x", failing(error, 3)) == "done"
    assert pauses == [1.0, 2.0, 4.0]
    assert caplog.text.count("'/run/x'") == 3


def test_trouble_that_stays_names_what_and_why(pauses):
    error = OSError(errno.EIO, "Input/output error", "/run/x")
    with pytest.raises(
        StorageError, match=r"Writing x failed 6 times in 31 s.*EIO|Errno 5.*/run/x"
    ):
        files.retrying("writing x", failing(error, 99))
    assert sum(pauses) == sum(files.DELAYS)


@pytest.mark.parametrize(
    "error", [InputError("no"), MissingError("no"), StorageError("no"), ValueError("no")]
)
def test_what_is_no_trouble_is_raised_at_once(error, pauses):
    with pytest.raises(type(error)):
        files.retrying("writing x", failing(error, 99))
    assert not pauses


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EROFS, "Read-only"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (StorageError("after all attempts"), True),
        (ValueError("a damaged file"), False),
        (ValueError("Failed to write: No space left on device [os_error_code='28']"), True),
        (ValueError("Error opening [os_error_code='2']"), False),
    ],
)
def test_whose_fault_it_is(error, expected):
    assert files.is_trouble(error) is expected


def test_the_cause_that_tensorstore_tells_is_one_line():
    text = "X: Failed writing: \"/run/a/d/b\": Failed [os_error_code='28'] [spec={...}]"
    assert files.cause(ValueError(text)) == f"[Errno 28] {os.strerror(28)}: '/run/a/d/b'"


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.json"
    files.write(path, "old")
    (tmp_path / "x.json.part").mkdir()
    with pytest.raises(StorageError, match=r"x\.json"):
        files.write(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1", b"[1]", b'"x"', b"[" * 100_000])
def test_damaged_json_is_left_out_and_said(content, tmp_path, caplog):
    path = tmp_path / "x.json"
    assert files.read_json(path, dict) == {}
    assert not caplog.text
    path.write_bytes(content)
    assert files.read_json(path, dict) == {}
    assert f"{path} is damaged and left out" in caplog.text


def test_json_with_other_content_than_expected_is_damaged(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path, dict, lambda content: "a" in content) == {"a": 1}
    assert files.read_json(path, dict, lambda content: "b" in content) == {}


def test_nothing_is_deleted_by_setting_aside(tmp_path):
    path = tmp_path / "x.json"
    for number in (1, 2):
        path.write_text(str(number))
        assert files.set_aside(path).name == f"x.damaged-{number}.json"
    assert (tmp_path / "x.damaged-1.json").read_text() == "1"


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK\3\4"])
def test_arrays(damage, tmp_path, caplog):
    path = tmp_path / "x.npz"
    assert files.read_arrays(path) == {}
    path.write_bytes(files.as_npz({"a": np.arange(3)}))
    np.testing.assert_array_equal(files.read_arrays(path)["a"], np.arange(3))
    assert not caplog.text
    path.write_bytes(damage(path.read_bytes()))
    assert files.read_arrays(path) == {}
    assert "is damaged and left out" in caplog.text


def test_workdirs(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.prepare_workdir("~/x") == tmp_path / "x"
    for nothing in ("", " "):
        with pytest.raises(InputError, match="expected a directory"):
            files.workdir_path(nothing)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        files.prepare_workdir(tmp_path / "file" / "x")
