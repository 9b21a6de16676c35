"""A file that does not come: named, given up, counted; the batch gets another image."""

import itertools
import pickle
import threading
import time

import numpy as np
import pytest

from moco_jax import config
from moco_jax.data import patience, pipeline
from moco_jax.data.source import EncodedSource, open_source
from moco_jax.errors import BadImage, StorageError, exit_code
from tests import readers
from tests.folders import save_image


@pytest.fixture
def root(tmp_path):
    for i in range(16):
        save_image(tmp_path / f"{i:02}.png", i, (70, 80))
    return tmp_path


def options(root, **overrides):
    data = config.default().data
    data.update(source=f"folder:{root}", batch_size=8, image_size=8, threads=2)
    data.update({"max_bad_share": 0.3, "read_seconds": 0.2} | overrides)
    return data


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_gets_another_image_and_the_log_the_name(root, monkeypatch, caplog, processes):
    data = options(root, processes=processes)
    splits = open_source(data.source)
    slow = EncodedSource("slow", 16, readers.Broken(splits.train, {3, 9}, "slow"), readers.name)
    monkeypatch.setattr(pipeline, "open_source", lambda *_: splits._replace(train=slow))
    source = pipeline.open_data(data).train
    begin = time.monotonic()
    with pipeline.train_batches(source, data, 0) as batches:
        index = np.concatenate([b["index"] for b in itertools.islice(batches, 6)])
    assert time.monotonic() - begin < 50  # one of them alone would take 60 s
    wanted = np.concatenate([pipeline.sample_order(0, epoch, 16) for epoch in range(3)])
    np.testing.assert_array_equal(index, [{3: 4, 9: 10}.get(i, i) for i in wanted.tolist()])
    for i in (3, 9):
        assert f"picture {i}: not read within data.read_seconds=0.2, and given up" in caplog.text
        assert f"picture {i} does not come: reading goes on without it" in caplog.text
    skipped = [r for r in caplog.records if "skipped an image" in r.getMessage()]
    assert len(skipped) == 2  # each is named once, and not waited for in every epoch


USES = {
    "views": lambda source, data: next(pipeline.train_batches(source, data, 0)),
    "evaluation": lambda source, data: list(pipeline.eval_batches(source, data)),
    "check": pipeline.check,
}


@pytest.mark.parametrize("late", [15, 7])
@pytest.mark.parametrize("use", USES)
def test_a_place_that_is_away_is_no_wrong_input(root, monkeypatch, use, late):
    """Code 75, where most of the images that cannot be read did not come in time."""
    monkeypatch.setattr(patience, "MOST_WAITING", 1000)
    end = threading.Event()
    read = patience.Patience(lambda i: (b"x", end.wait(60 * (i < late))), readers.name, 0.05)
    source = EncodedSource("away", 16, read, readers.name)
    with pytest.raises((BadImage, StorageError)) as error:
        USES[use](source, options(root, max_bad_share=0.2, threads=8))
    end.set()
    assert exit_code(error.value) == (75 if late == 15 else 2)
    assert ("that they are in is away" in str(error.value)) == (late == 15)


def test_each_thread_reads_in_order_and_passes_errors_on():
    def read(index):
        if index == 5:
            raise TimeoutError("of the system")
        return b"%d" % index, index

    reader = patience.Patience(read, str, 10.0)
    assert [reader(i) for i in range(5)] == [(b"%d" % i, i) for i in range(5)]
    with pytest.raises(TimeoutError, match="of the system"):
        reader(5)
    assert reader(6) == (b"6", 6)


def test_no_thread_is_left_when_the_decoders_end():
    def readers_alive():
        return {thread for thread in threading.enumerate() if thread.name == "read"}

    reader, before = patience.Patience(lambda i: (b"", i), str, 10.0), readers_alive()
    threads = [threading.Thread(target=reader, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(100):
        if readers_alive() <= before:  # those of other tests may end
            return
        time.sleep(0.05)
    pytest.fail(f"{len(readers_alive() - before)} threads are left")


def test_after_many_the_place_itself_is_said_to_be_gone(monkeypatch):
    monkeypatch.setattr(patience, "MOST_WAITING", 3)
    never = threading.Event()
    reader = patience.Patience(lambda _: never.wait(), str, 0.01)
    for i in range(3):
        with pytest.raises(BadImage, match="and given up"):
            reader(i)
    with pytest.raises(StorageError, match=r"4 images at a time were not read within.*is away"):
        reader(3)
    never.set()


def test_what_comes_late_is_read_again():
    """A network that was away for a while loses no image for good."""
    away = threading.Event()

    def read(index):
        away.wait()
        return b"", index

    reader = patience.Patience(read, str, 0.1)
    for _ in range(2):
        with pytest.raises(BadImage, match="and given up"):
            reader(7)
    away.set()
    time.sleep(0.1)
    assert reader(7) == (b"", 7)


def test_no_limit_reads_as_the_source_does_and_it_goes_to_processes(root):
    plain, patient = (pipeline.open_data(options(root, read_seconds=s)).train for s in (0.0, 9.0))
    assert not isinstance(plain.read, patience.Patience)
    assert pickle.loads(pickle.dumps(patient)).read(3) == plain.read(3)
