import contextlib
import os
import subprocess

import pytest

from tests.faults import runs


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Images and a config of tiny runs."""
    return runs.write_home(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def undisturbed(home):
    """Checksums of the last state of a run that nothing happens to."""
    runs.complete(home, home / "undisturbed")
    return runs.saved(home / "undisturbed")


@pytest.fixture(scope="session")
def pair(home):
    """A workdir of two processes that nothing happened to."""
    with runs.two(home, home / "pair") as (zero, one, _):
        zero.end(0), one.end(0)
    return home / "pair"


@pytest.fixture
def disk(tmp_path):
    """A file system of 16 MB of its own, for root."""
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def filled(disk):
    """Within the context there is no room on the disk."""
    with (disk / "ballast").open("wb", buffering=0) as f, contextlib.suppress(OSError):
        while f.write(bytes(1 << 12)):
            pass
    yield
    (disk / "ballast").unlink()
