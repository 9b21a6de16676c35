"""A folder whose listing hangs: named, given up, and its exit code says that it may pass."""

import functools
import os
import threading
import time

import pytest

from moco_jax.data import listing, patience
from moco_jax.data.source import open_source
from moco_jax.errors import EXIT_RESTART, InputError, StorageError, exit_code
from tests.folders import make_folder

NEVER = 60.0  # seconds


@pytest.fixture
def root(tmp_path):
    """Two classes, one of them with a folder below, and a folder of test images."""
    make_folder(tmp_path / "d", "train/a/1.png", "train/b/deep/1.png", "val/a/2.png")
    for where, _, _ in os.walk(tmp_path / "d"):
        os.utime(where, (1e9, 1e9))  # a list of what has just changed is not kept
    return tmp_path / "d"


def opened(root, seconds=0.5):
    return open_source(f"folder:{root}", str(root.parent / "cache"), "", "", seconds)


@pytest.fixture
def hang(monkeypatch):
    """(module, name of a function, end of a path) -> the function does not return there."""
    end = threading.Event()

    def start(module, name, at):
        original = getattr(module, name)

        @functools.wraps(original)
        def waiting(place, *args, **kwargs):
            path = place if isinstance(place, int) else os.fspath(place)
            if str(path).endswith(at):
                end.wait(NEVER)
            return original(place, *args, **kwargs)

        monkeypatch.setattr(module, name, waiting)

    yield start
    end.set()


PLACES = ("/d", "/d/train", "/d/train/a", "/d/train/b/deep", "/d/val", "/d/val/a")
HANGS = [
    *((os, "scandir", at, False) for at in PLACES),
    *((os, "stat", at, False) for at in PLACES),
    *((listing, "kind", at, False) for at in ("/d/train/a/1.png", "/d/train/b/deep", "/d/val")),
    *((os, "stat", at, True) for at in ("/d/train/b", "/d/val/a")),
]


@pytest.mark.parametrize(("module", "name", "at", "kept"), HANGS)
def test_a_listing_that_hangs_is_given_up(root, hang, module, name, at, kept):
    """Of a folder that is new, or one whose list is kept and only looked over."""
    if kept:
        opened(root)
    hang(module, name, at)
    begin = time.monotonic()
    named = os.path.dirname(at) if name == "kind" else at
    with pytest.raises(StorageError, match=rf"_seconds=0.5 from \S*{named}: the disk or") as error:
        opened(root)
    assert time.monotonic() - begin < NEVER / 2
    assert exit_code(error.value) == EXIT_RESTART


def test_all_that_is_waited_for_is_named_up_to_five(root, hang):
    make_folder(root / "train", *(f"{i}/1.png" for i in range(8)))
    patience_of_all = lambda: patience.for_each(  # noqa: E731
        lambda i: listing.scan(str(root / "train" / str(i))), range(8), 16
    )
    hang(listing, "kind", ".png")
    with pytest.raises(StorageError) as error:
        patience.while_it_lives(patience_of_all, 0.5)
    shown = ", ".join(str(root / "train" / str(i)) for i in range(5))
    assert f"from {shown} and 3 more: the disk" in str(error.value)


def alive(pause, times, waits):
    """Takes a while, with or without signs of life, waiting for the system or for itself."""
    for _ in range(times):
        if waits:
            with patience.waiting_for("/somewhere"):
                time.sleep(pause)
        else:
            time.sleep(pause)
    return "done"


@pytest.mark.parametrize("arguments", [(0.05, 20, True), (1.0, 1, False)])
def test_what_is_slow_is_no_hang(arguments):
    assert patience.while_it_lives(lambda: alive(*arguments), 0.5) == "done"


def test_no_limit_waits(root):
    assert patience.while_it_lives(lambda: alive(0.2, 1, True), 0.0) == "done"
    assert patience.while_it_lives(threading.current_thread, 0.0) is threading.current_thread()


def test_errors_and_results_pass(root):
    assert opened(root).train.class_names == ("a", "b")
    (root / "train" / "b" / "deep" / "1.png").rename(root / "train" / "b" / "deep" / "1.heic")
    with pytest.raises(InputError, match="its class would vanish"):
        opened(root)


def test_each_item_has_its_answer_in_order_or_the_error():
    slow_first = lambda i: (time.sleep(0.05 * (i == 0)), i * i)[1]  # noqa: E731
    assert patience.for_each(slow_first, range(40), 4) == [i * i for i in range(40)]
    assert patience.for_each(slow_first, [], 4) == []
    with pytest.raises(ZeroDivisionError):
        patience.for_each(lambda i: 1 / i, [2, 1, 0], 2)
