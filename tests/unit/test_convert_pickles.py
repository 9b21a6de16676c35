"""What pickles hold beside tensors is inert: nothing is called, and nothing grows."""

import argparse
import collections
import datetime
import enum
import functools
import logging
import os
import pathlib
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest

from moco_jax import convert
from moco_jax.commands.convert import main
from moco_jax.convert import topickle, torchfile
from moco_jax.convert.unpickle import MAX_DEPTH, load
from moco_jax.errors import CheckpointError
from tests.torchlike import legacy_file, pickled, small_contents, tensor, zip_file

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
READERS = {
    "zip": (zip_file, torchfile.read_zip),
    "legacy": (legacy_file, torchfile.read_legacy),
}


@pytest.fixture(params=READERS)
def kind(request):
    return request.param


def read(kind, path, content, storages=()):
    make, read = READERS[kind]
    return read(make(path, content, dict.fromkeys(storages, FLOATS.tobytes())))


class Payload:
    """What a malicious pickle does: it names a function and its arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(marker):
    touch = Payload(os.system, f"touch {marker}")
    nested = {"state_dict": collections.OrderedDict(a=1), "deep": [({"x": (touch,)},)]}
    return {
        "alone": touch,
        "nested": nested,
        "eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "in an OrderedDict's arguments": Payload(collections.OrderedDict, [("a", touch)]),
        "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
        "a call of a call": Payload(functools.partial, os.system, f"touch {marker}"),
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


@pytest.mark.parametrize("payload", ["storage type", "persistent id", "function of a tensor"])
def test_payloads_in_the_place_of_tensors(kind, payload, tmp_path, caplog):
    system = topickle.Call(topickle.Named("os", "system"), (f"touch {tmp_path / 'marker'}",))
    identity = ("storage", topickle.Named("os", "system"), "0", "cpu", 6)
    value = {
        "storage type": topickle.Persistent(identity),
        "persistent id": topickle.Persistent((system,)),
        "function of a tensor": {"a": tensor("0", (2, 3))._replace(function=system.function)},
    }[payload]
    if payload == "function of a tensor":
        with caplog.at_level(logging.INFO, "moco_jax"):
            assert read(kind, tmp_path / "f", pickled(value), "0")["a"] == {}
        assert "Passed over, and not run: os.system" in caplog.text
    else:
        with pytest.raises(CheckpointError, match="not a storage of known type"):
            read(kind, tmp_path / "f", pickled(value), "0")
    assert not (tmp_path / "marker").exists()


class Colour(enum.Enum):
    RED = 1


class Settings(dict):
    pass


OBJECTS = {
    "a Namespace": argparse.Namespace(lr=0.1),
    "NumPy's scalar": np.float64(71.3),
    "NumPy's arrays": [np.arange(3.0), np.array(["a"]), np.array([None]), np.zeros((0, 2))],
    "a path": argparse.Namespace(data=pathlib.PosixPath("/data")),
    "a date": {"time": datetime.datetime(2024, 1, 1)},
    "a partial": functools.partial(dict, a=1),
    "a defaultdict": collections.defaultdict(list, {"a": [1]}),
    "a dtype": {"d": np.dtype("float32"), "e": np.dtype("complex64")},
    "an enum": Colour.RED,
    "a set": {1, (2, 3)},
    "a frozenset": frozenset({1, 2}),
    "a counter": collections.Counter("aab"),
    "a deque": collections.deque([1, 2], 5),
    "a class of its own": Settings(a=1),
    "keys of every kind": {(1, 2): 3, Colour.RED: 4, None: 5, 1.5: 6, b"x": 7},
    "functions": [len, os.path.join, Settings],
    "bytes": [b"abc", bytearray(b"abc")],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_no_concern_are_passed_over(kind, name, protocol, tmp_path):
    """The numbers beside them are read."""
    tree = {"beside": OBJECTS[name], "epoch": 3}
    tree = read(kind, tmp_path / "f", pickle.dumps(tree, protocol))
    assert tree["epoch"] == 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_numpys_arrays_are_read(protocol, dtype, tmp_path):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"c": array, "f": np.asfortranarray(array)}, protocol))
    with open(path, "rb") as file:
        tree = load(file)
    for name in ("c", "f"):
        assert tree[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(tree[name].numpy(), array)


def shared(levels, close=b"\x86"):
    """Tuples of twice the same tuple: 2^levels values in a few bytes a level."""
    body = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + close for i in range(levels))
    return b"\x80\x02" + body


def repeated(value, times, close):
    """Memoizes a value, and puts it in a call or a tuple many times over."""
    return b"\x80\x02" + value + b"q\x000(" + b"h\x00" * times + close


TEXT = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5
PAIRS = b"](" + b"K\x01K\x02\x86" * 10**4 + b"e"
BOMBS = {
    "tuples that share": (shared(60) + b".", "tuples without end"),
    "tuples that share, as storage": (shared(18) + b"Q.", "not a storage of known type"),
    "tuples that share, as key": (b"\x80\x02}" + shared(60)[2:] + b"K\x01s.", "tuples without end"),
    "deep tuples": (b"\x80\x02)" + b"\x85" * (MAX_DEPTH + 1) + b".", "tuples without end"),
    "long names": (
        b"\x80\x04" + TEXT + b"\x94X\x01\x00\x00\x00x" + b"h\x00X\x01\x00\x00\x00y\x93" * 9 + b".",
        "a name of 100002 characters",
    ),
    "bytes made of one text": (
        b"\x80\x02" + TEXT + b"q\x010X\x06\x00\x00\x00latin1q\x020"
        b"(" + b"c_codecs\nencode\nh\x01h\x02\x86R" * 9 + b"t.",
        "more of its parts than the file holds",
    ),
    "dicts made of one list": (
        b"\x80\x02" + PAIRS + b"q\x010("
        b"" + b"ccollections\nOrderedDict\nh\x01\x85R" * 99 + b"t.",
        "more of its parts than the file holds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_grow_are_refused_at_once(kind, name, tmp_path):
    content, message = BOMBS[name]
    begin = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        read(kind, tmp_path / "f", content)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert time.monotonic() - begin < 60, "2^60 steps would take for ever"


@pytest.mark.parametrize("place", ["epoch", "args", "arch", "optimizer", "moco_jax", "scaler"])
def test_shared_tuples_beside_good_weights_harm_nothing(place, tmp_path):
    """As large as they may be: no text is made of them, and no hash."""
    convert.write(tmp_path / "good.pth", small_contents("moco"), "torchvision")
    tree = torchfile.read_zip(tmp_path / "good.pth")
    arrays = collections.OrderedDict((n, t.numpy()) for n, t in tree.items())
    nested = ()
    for _ in range(18):
        nested = (nested, nested)
    with open(tmp_path / "f.pth", "wb") as file:
        topickle.save_zip({"state_dict": arrays, place: nested}, file)
    assert convert.read(tmp_path / "f.pth").config.model.name == "resnet18"


@pytest.mark.parametrize("key", ["state", "params"])
def test_an_optimizer_of_nested_keys_is_passed_over_or_refused(key, tmp_path):
    convert.write(tmp_path / "good.pth.tar", small_contents("moco"))
    tree = torchfile.read_zip(tmp_path / "good.pth.tar")
    arrays = collections.OrderedDict((n, t.numpy()) for n, t in tree["state_dict"].items())
    optimizer = {"state": {}, "param_groups": [{"params": [((1, 2), 3)] * 128}]}
    if key == "state":
        optimizer = {"state": {1: ((), ())}, "param_groups": [{"params": list(range(128))}]}
    with open(tmp_path / "f.pth.tar", "wb") as file:
        topickle.save_zip({"state_dict": arrays, "optimizer": optimizer}, file)
    with pytest.raises(CheckpointError, match="its optimizer state is not the official code's"):
        convert.read(tmp_path / "f.pth.tar")
