"""Files are read without running anything in them, and damaged ones are refused."""

import copy
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.convert import safetensors, topickle, torchfile
from moco_jax.convert.placeholders import Tensor
from moco_jax.errors import CheckpointError
from tests import torchlike
from tests.torchlike import legacy_file, pickled, tensor, zip_file

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
READERS = {
    "zip": (zip_file, torchfile.read_zip),
    "legacy": (legacy_file, torchfile.read_legacy),
}


def walk(value):
    """Touches every number of a tree."""
    if isinstance(value, Tensor):
        value.numpy().sum()
    elif isinstance(value, dict):
        for item in value.values():
            walk(item)
    elif isinstance(value, list | tuple):
        for item in value:
            walk(item)


def load(kind, path, pickle_, storages):
    make, read = READERS[kind]
    tree = read(make(path, pickle_, storages))
    walk(tree)
    return tree


@pytest.fixture(params=READERS)
def kind(request):
    return request.param


def test_a_tensor_is_read(kind, tmp_path):
    tree = {"a": tensor("0", (2, 3)), "t": tensor("0", (3, 2), strides=(1, 3)), "n": 7}
    got = load(kind, tmp_path / "f", pickled(tree), {"0": FLOATS.tobytes()})
    np.testing.assert_array_equal(got["a"].numpy(), FLOATS)
    np.testing.assert_array_equal(got["t"].numpy(), FLOATS.T)
    assert got["n"] == 7
    with pytest.raises(ValueError, match="read-only"):
        got["a"].numpy()[0] = 1


BROKEN = {
    "instance": (b"(S'ls'\nios\nsystem\n.", "needs STRING"),
    "extension": (b"\x82\x01.", "needs EXT1"),
    "attribute of a function": (
        b"\x80\x02ccollections\nOrderedDict\n}b.", "sets attributes of collections",
    ),
    "call of a list": (b"\x80\x02])R.", "calls what is not a function"),
    "arguments of another kind": (b"\x80\x02ccollections\nOrderedDict\n]R.", "without a tuple"),
    "items of a list": (b"\x80\x02]K\x01K\x02s.", "sets items of a list"),
    "appending to a dict": (b"\x80\x02}K\x01a.", "appends to a Record"),
    "key that nests": (b"\x80\x02}" + b")" + b"\x85" * 10**4 + b"K\x01s.", "tuples without end"),
    "empty stack": (b"\x80\x020.", "damaged"),
    "two results": (b"\x80\x02K\x01K\x02.", "damaged"),
    "no end": (b"\x80\x02K\x01", "damaged"),
    "unknown opcode": (b"\x80\x02\xff.", "damaged"),
    "missing memo": (b"\x80\x02h\x07.", "damaged"),
    "storage inside a plain id": (b"\x80\x02K\x01Q.", "not a storage"),
    "string of 4 EB": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.", "damaged"),
    "bytes of 4 GB": (b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"abc.", "damaged"),
    "number of 2 GB": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles(kind, name, tmp_path):
    content, message = BROKEN[name]
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load(kind, tmp_path / "f", content, {})
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


BOMBS = {
    "repeated by a stride of 0": tensor("0", (10**6, 10**6), size=6, strides=(0, 0)),
    "beyond its storage": tensor("0", (2, 4), size=6),
    "offset beyond its storage": tensor("0", (2, 3), size=6, offset=1),
    "negative offset": tensor("0", (2,), size=6, offset=-1),
    "negative stride": tensor("0", (2,), size=6, offset=3, strides=(-1,)),
    "negative shape": tensor("0", (-2, -3), size=6),
    "shape and strides differ": tensor("0", (2, 3), size=6, strides=(1,)),
    "storage larger than the file": tensor("0", (2, 3), size=10**12),
    "storage of no type": tensor("0", (2, 3), kind="QInt8Storage"),
    "storage of another size": tensor("0", (5,), size=5),
    "storage of another type": tensor("0", (2, 3), kind="DoubleStorage"),
    "storage of no key": tensor("1", (2, 3)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_tensors_that_declare_too_much(kind, name, tmp_path):
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        load(kind, tmp_path / "f", pickled({"a": BOMBS[name]}), {"0": FLOATS.tobytes()})
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_one_storage_of_two_types_is_refused(kind, tmp_path):
    tree = [tensor("0", (2, 3)), tensor("0", (2, 3), kind="IntStorage")]
    with pytest.raises(CheckpointError, match="not a storage of known type"):
        load(kind, tmp_path / "f", pickled(tree), {"0": FLOATS.tobytes()})


def test_compressed_archives_are_refused(tmp_path):
    """A gigabyte of zeros would be a megabyte in them."""
    zeros = np.zeros(10**6, np.float32).tobytes()
    tree = pickled({"a": tensor("0", (10**6,))})
    path = zip_file(tmp_path / "f", tree, {"0": zeros}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        torchfile.read_zip(path)


def test_records_that_lie_upon_each_other_are_refused(tmp_path):
    """Many names for the same bytes."""
    zeros = np.zeros(10**5, np.float32).tobytes()
    path = zip_file(tmp_path / "f", pickled({"a": tensor("0", (10**5,))}), {"0": zeros})
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(1, 100):
            info = copy.copy(archive.getinfo("archive/data/0"))
            info.filename = f"archive/data/{i}"
            archive.filelist.append(info)
        archive._didModify = True
    with pytest.raises(CheckpointError, match=r"declares more bytes than the file has|damaged"):
        torchfile.read_zip(path)


def test_archives_of_others_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("model/weights.txt", "1 2 3")
    with pytest.raises(CheckpointError, match="a zip archive, but not one"):
        convert.read(tmp_path / "f.zip")


def whole_file(form, path):
    """A file with two tensors."""
    tree = {"state_dict": {"a": FLOATS, "b": np.arange(100, dtype=np.float32)}, "epoch": 3}
    with open(path, "wb") as file:
        if form == "safetensors":
            safetensors.save(tree["state_dict"], {}, file)
        elif form == "zip":
            topickle.save_zip(tree, file)
    if form == "legacy":
        torchlike.save_legacy(path, tree)
    return path.read_bytes()


def read_any(form, path):
    if form == "safetensors":
        return safetensors.read(path)[0]
    return READERS[form][1](path)["state_dict"]


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_cut_off_files_are_refused(form, tmp_path):
    whole = whole_file(form, tmp_path / "whole")
    path = tmp_path / "cut"
    for length in [*range(1, 200), *range(200, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            walk(read_any(form, path))
        with pytest.raises(CheckpointError):
            convert.read(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_changed_byte_is_refused_or_changes_a_number_only(form, tmp_path):
    """The zip archive has checksums; the others have none, so that weights may change unseen."""
    whole = whole_file(form, tmp_path / "whole")
    path, noticed = tmp_path / "changed", 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            got = read_any(form, path)
            walk(got)
        except (CheckpointError, KeyError):  # KeyError: of the test's own 'state_dict'
            noticed += 1
        else:
            if form == "zip":
                arrays = {name: value.numpy() for name, value in got.items()}
                np.testing.assert_array_equal(arrays["a"], FLOATS)
    assert noticed > 20


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(4096), b"\0" * 512, b"\x80\x04}."])
def test_garbage_is_refused(content, tmp_path):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match=str(tmp_path / "f")):
        convert.read(tmp_path / "f")


def header(**entry):
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry})


def deep(name):
    return f'{{"__metadata__": {name * 10**5}'


HEADERS = {
    "longer than the file": ("", "cut off"),
    "not JSON": ("{'a': 1}", "header is damaged"),
    "a list": ("[]", "header is damaged"),
    "no dtype": ('{"a": {"shape": [2], "data_offsets": [0, 8]}}', "damaged: 'dtype'"),
    "unknown dtype": (header(dtype="F8_E4M3"), "a tensor of type F8_E4M3; read are F64, F32"),
    "a dtype that is a list": (header(dtype=[1]), r"a tensor of type \[1\]"),
    "beyond the file": (header(shape=[2000000], data_offsets=[0, 8000000]), "does not fit"),
    "offsets and shape differ": (header(shape=[9]), "does not fit"),
    "negative": (header(shape=[-2, -1]), "negative or broken"),
    "backwards": (header(data_offsets=[8, 0]), "does not fit"),
    "text for numbers": (header(shape="22"), "negative or broken"),
    "a million dimensions": (header(shape=[10**9] * 10**5), "negative or broken"),
    "metadata that is a list": ('{"__metadata__": [1]}', "__metadata__ is not of names and texts"),
    "metadata that is a number": ('{"__metadata__": 3}', "__metadata__ is not of names and texts"),
    "metadata of numbers": ('{"__metadata__": {"a": 3}}', "__metadata__ is not of names and texts"),
    "metadata without end": (deep("["), "header is damaged"),
    "a dict without end": (deep('{"a":'), "header is damaged"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_broken_safetensors(name, tmp_path):
    text, message = HEADERS[name]
    content = text.encode() or b"{" + b" " * 10
    length = len(content) if text else 10**9
    (tmp_path / "f").write_bytes(struct.pack("<Q", length) + content + b"\0" * 8)
    with pytest.raises(CheckpointError, match=message):
        safetensors.read(tmp_path / "f")


@pytest.mark.parametrize("text", ["{", "[" * 10**5])
def test_a_record_that_is_no_json_is_refused(text, tmp_path):
    with open(tmp_path / "f", "wb") as file:
        safetensors.save({"a": FLOATS}, {"moco_jax": text}, file)
    with pytest.raises(CheckpointError, match="the metadata 'moco_jax' is damaged"):
        convert.read(tmp_path / "f")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert whole_file("zip", tmp_path / "a") == whole_file("zip", tmp_path / "b")


def test_tensors_in_an_archive_are_aligned(tmp_path):
    whole_file("zip", tmp_path / "f")
    got = torchfile.read_zip(tmp_path / "f")["state_dict"]
    for value in got.values():
        assert value.numpy().ctypes.data % topickle.ALIGNMENT == 0
