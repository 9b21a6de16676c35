"""Checkpoints in a bucket, of fsspec's memory, and the lock of a workdir there."""

import json
import time

import jax
import numpy as np
import pytest

from launch.local import newest_checkpoint
from moco_jax import config
from moco_jax.checkpoint.bucketed import UNFINISHED, BucketCheckpoints, open_checkpoints, steps
from moco_jax.cluster import lock
from moco_jax.convert import fetching
from moco_jax.errors import CheckpointError, InputError, MissingError, StorageError
from tests.memory import broken, empty_bucket
from tests.unit.test_checkpoint import CONFIG, assert_equal, make_state


@pytest.fixture
def workdir(monkeypatch):
    return empty_bucket(monkeypatch)


def store(workdir, **overrides):
    options = config.default().checkpoint
    options.update(overrides)
    return open_checkpoints(workdir, options)


class TestCheckpoints:
    def test_saves_what_the_state_was_although_it_is_donated_at_once(self, workdir):
        state = make_state(1.0)
        expected = jax.tree.map(np.array, state)
        change = jax.jit(lambda s: jax.tree.map(lambda x: x + 5, s), donate_argnums=0)
        with store(workdir) as kept:
            assert isinstance(kept, BucketCheckpoints)
            kept.save(7, state, CONFIG)
            change(state)
        with store(workdir) as kept:
            assert kept.newest_config() == CONFIG
            assert_equal(kept.restore(make_state(0.0)), expected)

    def test_those_of_a_file_system_may_be_copied_there_and_back(self, workdir, tmp_path):
        for place in (tmp_path, workdir, tmp_path / "back"):
            with store(place) as kept:
                if place == tmp_path:
                    kept.save(1, make_state(1.0), CONFIG, wait=True)
                assert_equal(kept.restore(make_state(0.0)), make_state(1.0))
            if place == tmp_path:
                for file in (p for p in (place / "checkpoints").rglob("*") if p.is_file()):
                    (workdir / file.relative_to(place).as_posix()).upload(file)
            (workdir / "checkpoints").download(tmp_path / "back" / "checkpoints")

    def test_keeps_the_newest_and_some(self, workdir):
        with store(workdir, keep_last=2, keep_every_steps=3) as kept:
            for position in range(1, 7):
                kept.save(position, make_state(float(position)), CONFIG, wait=True)
            assert kept.saved() == [3, 5, 6]
        assert newest_checkpoint(str(workdir)) == 6
        assert newest_checkpoint("memory://bucket/none") == -1
        left = {name.split("/")[0] for name in (workdir / "checkpoints").walk()}
        assert left == {"3", "5", "6"}

    def test_what_was_not_finished_is_none_and_removed(self, workdir):
        with store(workdir) as kept:
            for position in (1, 2):
                kept.save(position, make_state(float(position)), CONFIG, wait=True)
        (workdir / "checkpoints/2" / UNFINISHED).write_bytes(b"")
        assert steps(workdir / "checkpoints") == [1]
        with store(workdir) as kept:
            assert_equal(kept.restore(make_state(0.0)), make_state(1.0))
        assert not (workdir / "checkpoints/2").walk()

    def test_a_damaged_one_is_passed_over_and_set_aside(self, workdir):
        with store(workdir) as kept:
            for position in (1, 2):
                kept.save(position, make_state(float(position)), CONFIG, wait=True)
        meta = workdir / "checkpoints/2/meta/metadata"
        meta.write_bytes(meta.read_bytes().replace(b'"seed"', b'"sead"'))
        with store(workdir) as kept:
            assert_equal(kept.restore(make_state(0.0)), make_state(1.0))
            assert kept.saved() == [1]
            kept.save(2, make_state(2.0), CONFIG, wait=True)
            assert kept.saved() == [1, 2]
        assert (workdir / "checkpoints/damaged-2").is_dir()

    def test_a_failure_shows_and_the_next_save_tries_again(self, workdir, monkeypatch, caplog):
        with store(workdir) as kept:
            with broken(monkeypatch, "put_file", OSError("away"), times=3):
                kept.save(1, make_state(1.0), CONFIG)
                kept._thread.join()
            assert kept.failed()
            assert "away" in kept._problem()
            kept.save(2, make_state(2.0), CONFIG)
            assert not kept.failed()
            assert kept.saved() == [2]

    def test_a_failure_at_the_end_is_raised(self, workdir, monkeypatch):
        kept = store(workdir)
        message = r"Writing memory://bucket/run/checkpoints/1/.* failed 3 times.*away"
        with (
            broken(monkeypatch, "put_file", OSError("away")),
            pytest.raises(StorageError, match=message),
        ):
            kept.save(1, make_state(1.0), CONFIG, wait=True)
        assert kept.saved() == []

    @pytest.mark.parametrize("what", ["", "/checkpoints/2"])
    def test_one_step_is_fetched_to_be_read(self, workdir, what):
        with store(workdir) as kept:
            for position in (1, 2):
                kept.save(position, make_state(float(position)), CONFIG, wait=True)
        with fetching.fetched(f"{workdir}{what}") as here:
            step = here / "checkpoints/2" if not what else here
            assert {p.name for p in step.iterdir()} >= {"state", "meta"}
            assert not (step.parent / "1").exists()
        (workdir / "checkpoints/2" / UNFINISHED).write_bytes(b"")
        if what:
            with pytest.raises(CheckpointError, match="2 is not complete"):
                fetching.fetched(f"{workdir}{what}").__enter__()

    def test_nothing_there_is_said(self, workdir):
        with pytest.raises(MissingError, match="no file or folder memory://bucket/run/none"):
            fetching.fetched(f"{workdir}/none").__enter__()


class TestLock:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setattr(lock, "BEAT", 0.05)
        monkeypatch.setattr(lock, "LOST", 0.5)

    def test_given_back_at_the_end_and_refused_before(self, workdir):
        for _ in range(2):
            with (
                lock.held(workdir, print),
                pytest.raises(InputError, match="workdir='memory://bucket/run' is in use"),
            ):
                lock._BucketLock(workdir / lock.FILE, print).take()
            assert workdir.walk() == []

    @pytest.mark.parametrize("owner", [{"pid": 1, "host": "h", "token": "x"}, {}])
    def test_a_stale_one_is_taken_over(self, workdir, owner):
        (workdir / lock.FILE).write_bytes(json.dumps(owner).encode())
        with lock.held(workdir, print):
            assert json.loads((workdir / lock.FILE).read_bytes())["token"] != "x"

    def test_its_own_after_a_lost_answer_is_its_own(self, workdir):
        own = lock._BucketLock(workdir / lock.FILE, print)
        own.path.write_bytes(own._content())
        own.take()
        own.give_back()

    def test_one_that_was_taken_over_ends(self, workdir):
        said = []
        with lock.held(workdir, lambda code, text: said.append((code, text))):
            (workdir / lock.FILE).write_bytes(b'{"pid": 3, "host": "h", "token": "x"}')
            while not said:
                time.sleep(0.01)
        assert said[0] == (75, "process 3 on h has taken over memory://bucket/run: this run ends.")
        assert (workdir / lock.FILE).exists()
