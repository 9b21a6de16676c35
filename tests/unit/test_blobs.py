"""What patterns stand for, and reading parts of files."""

import os

import pytest

from moco_jax.data import blobs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{00..02}.tar", ["a-00.tar", "a-01.tar", "a-02.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{008..11}", ["008", "009", "010", "011"]),
        ("{b,a}/{0..1}", ["b/0", "b/1", "a/0", "a/1"]),
        ("x{,-more}", ["x", "x-more"]),
        ("{t-{1..2},v,}.tar", ["t-1.tar", "t-2.tar", "v.tar", ".tar"]),
        ("{a{b,c},{d,e}f}", ["ab", "ac", "df", "ef"]),
        ("gs://b/{1..1}*", ["gs://b/1*"]),
    ],
)
def test_braces_stand_for_each_of_these(pattern, expected):
    assert blobs.expand(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{000.127}", r"\{000.127\}; expected \{000..127\}"),
        ("{}", "expected"),
        ("{{0..2}}", "expected"),
        ("{000..127.tar", "a brace without its other"),
        ("000..127}.tar", "a brace without its other"),
        ("{9..2}", "the smaller number first"),
        ("{0..9999999}", "at most 1,000,000"),
        ("{0..9999}{0..9999}", "100,000,000 paths"),
    ],
)
def test_wrong_braces_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        blobs.expand(pattern)


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.tar", "a/b/2.tar", "a/3.txt", "[x]/4.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a/1.tar", "a/b/2.tar"]),
        ("a/", ["a/1.tar", "a/b/2.tar"]),
        ("[x]", ["[x]/4.tar"]),
        ("a/3.txt", ["a/3.txt"]),
        ("a/*", ["a/1.tar", "a/3.txt"]),
        ("**/*.tar", ["[x]/4.tar", "a/1.tar", "a/b/2.tar"]),
        ("a/{1,b/2}.tar", ["a/1.tar", "a/b/2.tar"]),
    ],
)
def test_patterns_find_files(root, monkeypatch, pattern, expected):
    monkeypatch.chdir(root)
    for start in ("", f"{root}/"):
        found = blobs.find("x", start + pattern, ".tar")
        assert [blob.path for blob in found] == [str(root / name) for name in expected]
        assert [blob.size for blob in found] == list(map(len, expected))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a/{1..4}.tar", "3 of 4 are missing, the first: .*a/2.tar"),
        ("a/*.zip", r"a/\*.zip does not exist"),
        ("aa/1.tar", "did you mean '.*/a'"),
        ("a/4.tar", "a/4.tar does not exist"),
    ],
)
def test_what_is_missing_is_named(root, pattern, message):
    with pytest.raises(FileNotFoundError, match=message):
        blobs.find("x", f"{root}/{pattern}", ".tar")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ValueError, match=r"pipe.tar is no file"):
        blobs.find("x", str(tmp_path), ".tar")


def test_another_scheme_is_refused():
    with pytest.raises(ValueError, match=r"ftp:// is not supported; expected .*gs://"):
        blobs.find("data.source", "ftp://host/{0..3}.tar", ".tar")


def test_another_content_has_another_stamp(root):
    (before,) = blobs.find("x", f"{root}/a/1.tar", ".tar")
    (root / "a" / "1.tar").write_text("other!!")
    (after,) = blobs.find("x", f"{root}/a/1.tar", ".tar")
    assert before.size == after.size
    assert before.stamp != after.stamp


def test_parts_are_read(root):
    path = str(root / "a" / "1.tar")
    assert blobs.read(path, 2, 3) == b"1.t"
    assert blobs.read(path, 5, 100) == b"ar"
