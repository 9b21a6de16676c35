"""One run a workdir: refused while the other lives, never blocked by one that is gone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from moco_jax.cluster import lock
from moco_jax.errors import InputError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "LOST", 0.5)


def never(code, text):
    raise AssertionError(text)


def test_given_back_at_the_end(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path, never):
            owner = json.loads((tmp_path / lock.FILE).read_text())
            assert owner["pid"] == os.getpid()
        assert not list(tmp_path.iterdir())


def test_a_second_one_is_refused_and_takes_nothing(tmp_path):
    with lock.held(tmp_path, never):
        with pytest.raises(InputError, match=rf"in use: another run, process {os.getpid()} on "):
            lock._Lock(tmp_path / lock.FILE, never).take()
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()


def test_a_process_that_was_killed_does_not_block(tmp_path):
    program = (
        "import os, pathlib, sys; from moco_jax.cluster import lock\n"
        "held = lock.held(pathlib.Path(sys.argv[1]), print); held.__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert (tmp_path / lock.FILE).exists()
    start = time.monotonic()
    with lock.held(tmp_path, never):
        pass
    assert time.monotonic() - start < lock.LOST, "known at once"


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path):
    owner = lock._identity() | {"host": "here", "token": "1", "started": "1"}
    (tmp_path / lock.FILE).write_text(json.dumps(owner))
    with lock.held(tmp_path, never):
        pass


@pytest.mark.parametrize("content", ["", "\0", "[]", '{"pid": "x"}', '{"machine": "m", "pid": 1}'])
def test_what_cannot_be_known_is_watched(content, tmp_path):
    """Of another host, or damaged: nobody renews it."""
    (tmp_path / lock.FILE).write_text(content)
    with lock.held(tmp_path, never):
        pass


def test_a_run_on_another_host_that_renews_is_refused(tmp_path, monkeypatch):
    with lock.held(tmp_path, never):
        monkeypatch.setattr(lock, "_machine", lambda: "another")
        with pytest.raises(InputError, match="in use"):
            lock._Lock(tmp_path / lock.FILE, never).take()


def test_who_was_taken_for_lost_ends(tmp_path):
    ended, texts = threading.Event(), []

    def lost(code, text):
        texts.append((code, text))
        ended.set()

    with lock.held(tmp_path, lost):
        owner = {"host": "far", "pid": 7, "token": "other"}
        (tmp_path / lock.FILE).write_text(json.dumps(owner))
        assert ended.wait(5)
    assert texts == [(75, f"process 7 on far has taken over {tmp_path}: this run ends.")]
    assert json.loads((tmp_path / lock.FILE).read_text())["token"] == "other", "it is not ours"


def test_a_lock_deleted_by_hand_comes_back(tmp_path):
    with lock.held(tmp_path, never):
        (tmp_path / lock.FILE).unlink()
        deadline = time.monotonic() + 5
        while not (tmp_path / lock.FILE).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_given_back_during_a_renewal_it_does_not_come_back(tmp_path, monkeypatch):
    making, go, made = (threading.Event() for _ in range(3))
    make = lock._Lock._make

    def slowly(self):
        making.set()
        assert go.wait(5)
        make(self)
        made.set()
        return True

    with lock.held(tmp_path, never):
        monkeypatch.setattr(lock._Lock, "_make", slowly)
        (tmp_path / lock.FILE).unlink()
        assert making.wait(5)
        threading.Timer(0.2, go.set).start()
    assert made.wait(5)
    assert not (tmp_path / lock.FILE).exists()


def test_of_many_that_take_a_stale_one_a_single_one_gets_it(tmp_path):
    (tmp_path / lock.FILE).write_text("")
    got, refused = [], []

    def take():
        one = lock._Lock(tmp_path / lock.FILE, lambda *_: None)
        try:
            one.take()
            got.append(one)
        except InputError:
            refused.append(one)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.3)
    assert sum(one._is_mine() for one in got) == 1
    for one in got:
        one._over.set()
