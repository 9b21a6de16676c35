"""What is found in people's folders beside images: named, counted, and never waited for."""

import os
import socket

import pytest

from moco_jax.data import listing
from moco_jax.data.formats import EXTENSIONS
from moco_jax.data.source import open_source
from moco_jax.errors import InputError
from tests.folders import levels, make_folder, names, save_image


@pytest.fixture
def classes(tmp_path):
    """Two classes of one image."""
    make_folder(tmp_path, "a/1.png", "b/1.png")
    return tmp_path


def opened(root):
    return open_source(f"folder:{root}").train


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_each_documented_extension_is_read(tmp_path, extension):
    files = [f"a/1{extension}", f"b/2{extension.upper()}"]
    source = opened(make_folder(tmp_path, *files).partition(":")[2])
    assert names(source) == [f"1{extension}", f"2{extension.upper()}"]
    assert all(abs(found - level) <= 1 for found, level in zip(levels(source), (0, 1)))
    assert source.understood.kinds == {extension: 2}


def pipe(path):
    os.mkfifo(path)


def bound_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # its name may not be longer than about 100 bytes
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0\5\x16\7")


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (pipe, "x.jpg", listing.NO_FILE),
        (bound_socket, "x.jpg", listing.NO_FILE),
        (lambda path: path.symlink_to("/dev/zero"), "x.jpg", listing.NO_FILE),
        (lambda path: path.symlink_to("gone"), "x.jpg", listing.DANGLING),
        (lambda path: path.symlink_to(path.name), "x.jpg", listing.DANGLING),
        (write, "._1.jpg", listing.HIDDEN),
        (write, ".ipynb_checkpoints/1.jpg", listing.HIDDEN),
        (write, "Thumbs.db", "system files"),
        (write, "notes.txt", ".txt files"),
        (write, "scan.HEIC", ".heic files"),
        (write, "README", "files without an extension"),
        *((save_image, f"{name}/1.png", listing.SYSTEM)
          for name in ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["a", "."])
def test_what_is_no_image_is_named_and_counted(classes, make, name, reason, where):
    make(classes / where / name)
    source = opened(classes)
    assert names(source) == ["1.png", "1.png"]
    assert source.class_names == ("a", "b")
    shown = os.path.normpath(os.path.join(where, name.partition("/")[0]))
    assert dict(source.understood.left_out) == {reason: (1, shown)}


@pytest.mark.parametrize("up", [".", "..", "../.."])
def test_a_link_to_a_folder_that_it_lies_in_is_not_followed(classes, up):
    root = classes / "root"
    make_folder(root, "a/deep/1.png", "b/1.png")
    (root / "a" / "deep" / "latest").symlink_to(up)
    source = opened(root)
    assert source.understood.classes == {"a": 1, "b": 1}
    assert source.understood.left_out == {listing.LOOP: (1, "a/deep/latest")}


def test_links_are_followed_wherever_they_stand(classes, tmp_path_factory):
    root = tmp_path_factory.mktemp("links")
    (root / "c").symlink_to(classes / "a")
    (root / "d").mkdir()
    (root / "d" / "2.png").symlink_to(classes / "b" / "1.png")
    assert names(opened(root)) == ["1.png", "2.png"]
    link = tmp_path_factory.mktemp("above") / "link"
    link.symlink_to(root)
    assert opened(link).class_names == ("c", "d")


def test_a_folder_that_cannot_be_read_is_named(classes, monkeypatch):
    save_image(classes / "a" / "closed" / "2.png")
    scandir = os.scandir

    def refusing(where):
        if os.fspath(where).endswith("closed"):
            raise PermissionError(13, "Permission denied", where)
        return scandir(where)

    monkeypatch.setattr(os, "scandir", refusing)
    source = opened(classes)
    assert source.understood.left_out == {listing.UNREADABLE: (1, "a/closed")}
    (classes / "a" / "closed").rename(classes / "closed")
    with pytest.raises(InputError, match=r"/closed holds no image.*folders that cannot be read: 1"):
        opened(classes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.heic", "2.HEIC"], r"/c holds no image.*\.heic files: 2 \(c/1.heic\); expected files"),
        (["1.dcm"], r"\.dcm files: 1"),
        (["1", "2"], r"files without an extension: 2 \(c/1\)"),
        (["deep/1.nii.gz"], r"\.gz files: 1 \(c/deep/1.nii.gz\)"),
    ],
)
def test_a_class_that_would_vanish_is_an_error(classes, files, message):
    for name in files:
        write(classes / "c" / name)
    with pytest.raises(InputError, match=message):
        opened(classes)


@pytest.mark.parametrize("files", [[], ["labels.csv", "more/readme.md"], [".hidden"]])
def test_a_folder_of_no_images_at_all_is_no_class(classes, files):
    (classes / "c").mkdir()
    for name in files:
        write(classes / "c" / name)
    source = opened(classes)
    assert source.class_names == ("a", "b")
    assert source.understood.left_out[listing.EMPTY] == (1, "c")


def test_a_class_folder_whose_link_leads_nowhere_is_an_error(classes):
    (classes / "c").symlink_to(classes / "gone")
    with pytest.raises(InputError, match="/c is a link that leads nowhere"):
        opened(classes)


@pytest.mark.parametrize("make", [pipe, bound_socket, os.mkdir])
def test_a_file_that_became_a_pipe_since_does_not_block(classes, make):
    source = opened(classes)
    (classes / "a" / "1.png").unlink()
    make(classes / "a" / "1.png")
    with pytest.raises(OSError):
        source.read(0)
    assert source.read(1)[1] == 1
