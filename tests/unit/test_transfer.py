"""From hosts to devices: whose rows, whose memory, and arrays that stay on the devices."""

import itertools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from moco_jax import config, mesh
from moco_jax.data import pipeline, transfer
from moco_jax.training import experiment
from tests.tiny import BATCH, IMAGES, tiny_config, write_npz

ROOT = pathlib.Path(__file__).parents[2]


def take(batches, count=None):
    with batches:
        return jax.device_get(list(itertools.islice(batches, count)))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for a, b in zip(batches, others):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], key)


def test_a_batch_is_spread_in_order_and_owns_its_memory():
    sharding = mesh.batched(mesh.make_mesh())
    host = {"image": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3), "index": np.arange(16)}
    sent = transfer.put(sharding, host | {"index": host["index"].astype(np.int32)})
    expected = host["image"].copy()
    host["image"][:] = 0
    np.testing.assert_array_equal(sent["image"], expected)
    assert sent["image"].sharding == sharding
    assert [shard.data.shape for shard in sent["index"].addressable_shards] == [(2,)] * 8


@pytest.fixture
def x(tmp_path):
    return experiment.build(tiny_config("v3", write_npz(tmp_path / "images.npz")))


def streams(x):
    return (
        take(experiment.train_batches(x, 3), 7),
        take(experiment.eval_batches(x, x.data.train)),
        take(experiment.eval_batches(x, x.data.train, limit=21)),
    )


def test_resident_batches_are_bitwise_those_that_were_sent(x):
    resident = streams(x)
    x.config.data.resident_gb = 0.0
    sent = streams(x)
    for a, b in zip(resident, sent):
        assert_same(a, b)
    train, evaluation, _ = resident
    assert train[0]["image"].shape == (BATCH, 12, 12, 1)
    assert sum(batch["mask"].sum() for batch in evaluation) == IMAGES


@pytest.mark.parametrize("devices", [1, 2])
def test_resident_batches_lie_as_others_do(x, devices):
    x = x._replace(mesh=mesh.make_mesh(jax.devices()[:devices]))
    with experiment.train_batches(x, 0) as batches:
        batch = next(batches)
    assert {value.sharding for value in batch.values()} == {mesh.batched(x.mesh)}


def test_the_host_sends_only_numbers_of_a_resident_source(x, monkeypatch):
    sent, put = [], transfer.put

    def watched(sharding, batch):
        sent.append(sum(value.nbytes for value in batch.values()))
        return put(sharding, batch)

    monkeypatch.setattr(transfer, "put", watched)
    take(experiment.train_batches(x, 0), 4)
    assert max(sent) == 3 * 4 * BATCH  # index, epoch and label


def test_the_limit_decides_what_is_resident(x):
    source = x.data.train
    assert transfer.is_resident(source, source.images.nbytes / 1e9)
    assert not transfer.is_resident(source, (source.images.nbytes - 1) / 1e9)


PROGRAM = """
import itertools, sys, types
import jax, numpy as np
from moco_jax import config, mesh
from moco_jax.training import experiment
from moco_jax.data import pipeline

port, process, folder, npz, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
assert jax.process_count() == 2 and len(jax.devices()) == 4
rows = {}
for source in (folder, npz):
    c = config.default()
    c.data.update(source=source, batch_size=12, eval_batch_size=16, image_size=16, threads=2)
    task = types.SimpleNamespace(views=(c.data.view1, c.data.view2))
    x = types.SimpleNamespace(
        data=pipeline.open_data(c.data), config=c, mesh=mesh.make_mesh(), task=task, own=None
    )
    kind = source.partition(":")[0]
    for stream, batches in (
        ("train", experiment.train_batches(x, 2)),
        ("eval", experiment.eval_batches(x, x.data.train)),
    ):
        with batches:
            for step, batch in enumerate(itertools.islice(batches, 6)):
                crops = {f"crop{i}": crop for i, crop in enumerate(batch.pop("crops", ()))}
                for key, value in (batch | crops).items():
                    shards = sorted(value.addressable_shards, key=lambda s: s.index[0].start)
                    rows[f"{kind}-{stream}-{step}-{key}"] = np.concatenate([s.data for s in shards])
                    assert len(value) == 12 if stream == "train" else 16
np.savez(out, **rows)
"""


def test_two_processes_read_and_hold_their_halves_of_the_batches(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(40):
        pixels = rng.integers(0, 256, (70 + i, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    sources = f"folder:{tmp_path}/images", write_npz(tmp_path / "images.npz")
    port = str(20000 + os.getpid() % 20000)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"
    }  # fmt: skip
    outs = [str(tmp_path / f"{process}.npz") for process in range(2)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, str(process), *sources, outs[process]],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for process in range(2)
    ]  # fmt: skip
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    halves = [np.load(out) for out in outs]
    for source in sources:
        data = config.default().data
        data.update(source=source, batch_size=12, eval_batch_size=16, image_size=16, threads=2)
        images, kind = pipeline.open_data(data).train, source.partition(":")[0]
        for stream, batches in (
            ("train", pipeline.train_batches(images, data, 0, 2)),
            ("eval", pipeline.eval_batches(images, data)),
        ):
            for step, batch in enumerate(take(batches, 6)):
                crops = {f"crop{i}": crop for i, crop in enumerate(batch.pop("crops", ()))}
                for key, value in (batch | crops).items():
                    parts = [half[f"{kind}-{stream}-{step}-{key}"] for half in halves]
                    assert len(parts[0]) == len(parts[1])
                    np.testing.assert_array_equal(np.concatenate(parts), value, key)
