"""Files made to do harm, given to whole programs: refused, nothing run, memory bounded."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

from tests.faults.runs import ENVIRONMENT, ROOT, WAIT
from tests.torchlike import legacy_file, pickled, tensor, zip_file

pytestmark = pytest.mark.faults
HUGE = 1 << 29  # bytes of zeros, half a megabyte when packed
SPARE = 100 << 20  # bytes that a refusal may take beyond that of a file of garbage


class Payload:
    """What a malicious pickle does: it names a function and its arguments."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def evil(marker):
    return pickle.dumps({"state_dict": {"conv1.weight": Payload(marker)}}, 2)


def pickle_alone(path, marker):
    path.write_bytes(evil(marker))


def pickle_in_zip(path, marker):
    zip_file(path, evil(marker), {"0": bytes(24)})


def pickle_in_legacy(path, marker):
    legacy_file(path, evil(marker), {"0": bytes(24)})


def objects_in_npz(path, marker):
    with path.open("wb") as file:
        np.savez(file, images=np.array([Payload(marker)] * 8, object))


def bomb_of_tensors(path, marker):
    tree = pickled({"state_dict": {"conv1.weight": tensor("0", (HUGE // 4,))}})
    zip_file(path, tree, {"0": bytes(HUGE)}, zipfile.ZIP_DEFLATED)


def bomb_as_pickle(path, marker):
    zip_file(path, bytes(HUGE), {}, zipfile.ZIP_DEFLATED)


def npy(shape):
    out = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, described)
    return out.getvalue()


def bomb_in_npz(path, marker):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy((8, 4, 4)) + bytes(HUGE))


def promise_in_npz(path, marker):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy((10**8, 300, 80)))


def safetensors(header, length=None):
    def write(path, marker):
        content = header.encode()
        path.write_bytes(struct.pack("<Q", length or len(content)) + content + bytes(64))

    return write


def entry(shape, end):
    return json.dumps({"conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}})


WEIGHTS = {
    "pickle.pth": pickle_alone,
    "zip.pth": pickle_in_zip,
    "legacy.pth": pickle_in_legacy,
    "objects.npz": objects_in_npz,
    "bomb.pth": bomb_of_tensors,
    "bomb_pickle.pth": bomb_as_pickle,
    "long.safetensors": safetensors("{}", 1 << 62),
    "huge.safetensors": safetensors(entry([1 << 20, 1 << 20], 1 << 42)),
    "deep.safetensors": safetensors('{"__metadata__": ' + "[" * 10**5),
}
IMAGES = {
    "pickle.npz": pickle_alone,
    "zip.npz": pickle_in_zip,
    "objects.npz": objects_in_npz,
    "bomb.npz": bomb_in_npz,
    "promise.npz": promise_in_npz,
}


class Ended(NamedTuple):
    """How a program ended, what it said, and the most memory that it had, in bytes."""

    code: int
    text: str
    peak: int


# A small program between: a process's peak counts what its parent had when it was started.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def program(*command):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", *command],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    kibibytes = done.stdout.rpartition("peak ")[2]
    return Ended(done.returncode, done.stdout + done.stderr, int(kibibytes) << 10)


def init(home, path, out):
    start = ("moco_jax.main", f"--config={home}/config.py:v3", f"--workdir={out}")
    return program(*start, f"--config.init={path}")


def convert(home, path, out):
    start = ("moco_jax", "convert", str(path), f"{out}.pth", "--to", "timm", "--partial")
    return program(*start)


def source(home, path, out):
    start = ("moco_jax.main", f"--config={home}/config.py:v3", f"--workdir={out}")
    return program(*start, f"--config.data.source=npz:{path}")


@pytest.mark.parametrize(("use", "files"), [(init, WEIGHTS), (convert, WEIGHTS), (source, IMAGES)])
def test_hostile_files_are_refused_and_nothing_runs(use, files, home, tmp_path):
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 16)
    usual = use(home, tmp_path / "garbage", tmp_path / "out")
    assert usual.code == 2, usual.text
    marker = tmp_path / "marker"
    for name, write in files.items():
        write(tmp_path / name, marker)
        ended = use(home, tmp_path / name, tmp_path / "out")
        assert ended.code == 2, f"{name}: {ended.text}"
        assert name in ended.text, ended.text
        assert "Traceback" not in ended.text, ended.text
        assert ended.peak < usual.peak + SPARE, f"{name}: {ended.peak:,}, not {usual.peak:,}"
        assert not marker.exists(), name
        assert not (tmp_path / "out.pth").exists(), name
        assert not (tmp_path / "out" / "checkpoints" / "0").exists(), name
    pickle.loads(evil(marker))
    assert marker.exists(), "the payload is one"
