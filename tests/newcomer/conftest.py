"""The package as a newcomer has it: a wheel, installed outside the checkout, without one."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """The Python of an environment with the wheel, and with the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        _clean(folder),
    ]
    subprocess.run(build, check=True)
    venv.create(folder / "env", with_pip=False)
    executable = folder / "env/bin/python"
    where = [executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    # Folders in a .pth are searched; a .pth in them, such as an editable install's, is not read.
    paths = dict.fromkeys([sysconfig.get_path("purelib"), *_extra_paths()])
    pathlib.Path(site, "libraries.pth").write_text("\n".join(paths) + "\n")
    return executable


def _clean(folder):
    """A copy of the sources: setuptools leaves files in them, and takes old ones of its own in."""
    for name in ("moco_jax", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    return folder / "source"


def _extra_paths():
    return [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]


@pytest.fixture
def run(python, tmp_path):
    """Runs Python with arguments in an empty folder; returns what it printed, both streams."""

    def call(*argv, code=0):
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        done = subprocess.run(
            [python, *map(str, argv)], cwd=tmp_path, env=clean | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    return call
