"""The program with shorter waits, and a place at which it is disturbed.

Environment, each function given as module:name or module:Class.name, then # and which call of it:
  FAULT_GATE: before it, the main thread makes the file $FAULT_AT and waits until $FAULT_GO is
    there.
  FAULT_BREAK: raises an I/O error instead.
  FAULT_DAMAGE: raises what a damaged file raises instead.
  FAULT_SET: JSON, constants by module:name.
  FAULT_CLOCK: a file of the seconds by which Python's clock of the day is wrong, read each time.
"""

import errno
import functools
import importlib
import itertools
import json
import os
import pathlib
import time

from moco_jax import files, main

files.DELAYS, files.BUCKET_SECONDS = (0.1, 0.2), 0.0


def wait(*_):
    pathlib.Path(os.environ["FAULT_AT"]).touch()
    while not pathlib.Path(os.environ["FAULT_GO"]).exists():
        time.sleep(0.01)


def fail(what):
    raise OSError(errno.EIO, os.strerror(errno.EIO), what)


def damage(what):
    raise ValueError(f"{what} is damaged")


def wrong_clock(function, unit):
    """A clock that jumps when the file changes; the monotonic one goes on."""
    return lambda: function() + unit * int(pathlib.Path(os.environ["FAULT_CLOCK"]).read_text())


def disturb(place, disturbance):
    place, _, number = place.partition("#")
    module, name = place.split(":")
    owner = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if not number or next(calls) == int(number):
            disturbance(place)
        return function(*args, **kwargs)

    setattr(owner, name, wrapper)


def jump():
    """Has everything that asks for the time of the day get the wrong one."""
    right, gmtime, localtime = time.time, time.gmtime, time.localtime
    time.time, time.time_ns = wrong_clock(right, 1), wrong_clock(time.time_ns, 10**9)
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
    time.localtime = lambda seconds=None: localtime(time.time() if seconds is None else seconds)


def prepare(argv):
    from moco_jax.report import pictures

    pictures.collect = lambda *_: {}  # a map of features takes long, and is made in a process alone
    for place, value in json.loads(os.environ.get("FAULT_SET", "{}")).items():
        module, name = place.split(":")
        setattr(importlib.import_module(module), name, value)
    for kind, disturbance in (("GATE", wait), ("BREAK", fail), ("DAMAGE", damage)):
        if os.environ.get(f"FAULT_{kind}"):
            disturb(os.environ[f"FAULT_{kind}"], disturbance)
    return original(argv)


if __name__ == "__main__":
    if os.environ.get("FAULT_CLOCK"):
        jump()
    original, main.main = main.main, prepare
    main.run()
