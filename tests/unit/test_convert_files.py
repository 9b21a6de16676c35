"""Files are read without running anything in them, and damaged ones are refused."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.commands.convert import main
from moco_jax.convert import safetensors, topickle, torchfile
from moco_jax.convert.unpickle import Tensor
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


class Payload:
    """What a malicious pickle does: it names a function and its arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(marker):
    touch = Payload(os.system, f"touch {marker}")
    nested = {"state_dict": OrderedDict(a=1), "deep": [({"x": (touch,)},)]}
    return {
        "alone": touch,
        "nested": nested,
        "eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "in an OrderedDict's arguments": Payload(OrderedDict, [("a", touch)]),
        "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
        "as a state": {"Namespace": Payload(type, "X", (), {"a": touch})},
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("payload", payloads(""))
def test_payloads_are_refused_and_nothing_runs(kind, payload, protocol, tmp_path, capsys):
    marker, out = tmp_path / "marker", tmp_path / "out.pth"
    evil = pickle.dumps(payloads(marker)[payload], protocol)
    path = READERS[kind][0](tmp_path / "evil.pth.tar", evil, {"0": FLOATS.tobytes()})
    assert main([str(path), str(out), "--to", "timm", "--partial"]) == 2
    assert "ERROR" in capsys.readouterr().err
    assert not marker.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth.tar"], "no partial output"
    pickle.loads(evil) if payload == "alone" else None
    assert marker.exists() == (payload == "alone"), "the payload itself is one"


@pytest.mark.parametrize("payload", ["storage type", "function of a tensor", "persistent id"])
def test_payloads_in_the_place_of_tensors(kind, payload, tmp_path):
    system = topickle.Call(topickle.Named("os", "system"), (f"touch {tmp_path / 'marker'}",))
    identity = ("storage", topickle.Named("os", "system"), "0", "cpu", 6)
    value = {
        "storage type": topickle.Persistent(identity),
        "function of a tensor": tensor("0", (2, 3))._replace(function=system.function),
        "persistent id": topickle.Persistent((system,)),
    }[payload]
    with pytest.raises(CheckpointError, match=r"asks for os\.system, .* was not run"):
        load(kind, tmp_path / "f", pickled(value), {"0": FLOATS.tobytes()})
    assert not (tmp_path / "marker").exists()


BROKEN = {
    "global that is not called": (b"cos\nsystem\n.", "asks for os.system"),
    "hidden in a name": (b"\x80\x04\x8c\x05torch\x8c\x06Tensor\x93.", "asks for torch.Tensor"),
    "instance": (b"(S'ls'\nios\nsystem\n.", "needs STRING"),
    "extension": (b"\x82\x01.", "needs EXT1"),
    "attribute of a function": (
        b"\x80\x02ccollections\nOrderedDict\n}b.", "sets attributes of a Global",
    ),
    "call of a list": (b"\x80\x02])R.", "calls what is not a function"),
    "arguments of another kind": (b"\x80\x02ccollections\nOrderedDict\n]R.", "without a tuple"),
    "items of a list": (b"\x80\x02]K\x01K\x02s.", "sets items of a list"),
    "appending to a dict": (b"\x80\x02}K\x01a.", "appends to a Record"),
    "key that nests": (b"\x80\x02}" + b")" + b"\x85" * 10**4 + b"K\x01s.", "a tuple as key"),
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


HEADERS = {
    "longer than the file": b"",
    "not JSON": b"{'a': 1}",
    "a list": b"[]",
    "no dtype": b'{"a": {"shape": [2], "data_offsets": [0, 8]}}',
    "unknown dtype": b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
    "beyond the file": b'{"a": {"dtype": "F32", "shape": [2000000], "data_offsets": [0, 8000000]}}',
    "offsets and shape differ": b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}',
    "negative": b'{"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}',
    "backwards": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
    "text for numbers": b'{"a": {"dtype": "F32", "shape": "22", "data_offsets": [0, 8]}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_broken_safetensors(name, tmp_path):
    header = HEADERS[name] or b"{" + b" " * 10
    length = len(header) if HEADERS[name] else 10**9
    (tmp_path / "f").write_bytes(struct.pack("<Q", length) + header + b"\0" * 8)
    with pytest.raises(CheckpointError):
        safetensors.read(tmp_path / "f")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert whole_file("zip", tmp_path / "a") == whole_file("zip", tmp_path / "b")


def test_tensors_in_an_archive_are_aligned(tmp_path):
    whole_file("zip", tmp_path / "f")
    got = torchfile.read_zip(tmp_path / "f")["state_dict"]
    for value in got.values():
        assert value.numpy().ctypes.data % topickle.ALIGNMENT == 0
