import asyncio
import errno
import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from moco_jax import checkpoint, config, files, mesh
from moco_jax.checkpoint import Checkpoints, failures, sealed
from moco_jax.errors import CheckpointError, StorageError
from moco_jax.identity import refuse_changes
from moco_jax.training.step import TrainState

CONFIG = {"seed": 0}


def make_state(value: float, width: int = 3) -> TrainState:
    params = {
        "backbone": {
            "kernel": jnp.full((4, width), value),
            "bias": jnp.arange(width, dtype=jnp.float32),
        }
    }
    tx = optax.adamw(0.1)
    state = TrainState(jnp.int32(7), jnp.zeros(2, jnp.int32), params, tx.init(params), {})
    return jax.device_put(state, mesh.replicated(mesh.make_mesh()))


def checkpoints(path, **overrides) -> Checkpoints:
    options = config.default().checkpoint
    options.update(overrides)
    return Checkpoints(path, options)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def test_saves_what_the_state_was_although_it_is_donated_at_once(tmp_path):
    state = make_state(1.0)
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: jnp.full_like(x, 5), s), donate_argnums=0)
    store = checkpoints(tmp_path)
    store.save(7, state, CONFIG)
    state = overwrite(state)
    store.close()
    restored = checkpoints(tmp_path).restore(make_state(0.0))
    assert_equal(restored, expected)


def test_nothing_saved_is_none(tmp_path):
    assert checkpoints(tmp_path).restore(make_state(0.0)) is None
    assert checkpoints(tmp_path).newest_config() is None


def test_config_is_stored_beside_the_state(tmp_path):
    store = checkpoints(tmp_path)
    store.save(7, make_state(1.0), {"seed": 3, "data": {"mean": [0.5]}})
    store.wait()
    assert store.newest_config() == {"seed": 3, "data": {"mean": [0.5]}}


def save_two(path) -> None:
    store = checkpoints(path)
    for position in (1, 2):
        store.save(position, make_state(float(position)), CONFIG)
    store.close()


def data_files(step_directory):
    return [p for p in step_directory.rglob("*") if p.is_file() and "/d/" in str(p)]


def test_a_flipped_bit_falls_back_to_the_checkpoint_before(tmp_path, monkeypatch, caplog):
    """The bit is flipped behind Orbax: the stored checksum no longer fits the array."""
    save_two(tmp_path)
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    name = "params/backbone/kernel"
    flipped = int(content["checksums"][name], 16) ^ 1
    content["checksums"][name] = f"{flipped:016x}"
    meta.write_text(json.dumps(content))
    restored = checkpoints(tmp_path).restore(make_state(0.0))
    assert_equal(restored, make_state(1.0))
    assert "CHECKPOINT 2 IS DAMAGED" in caplog.text
    assert (tmp_path / "checkpoints" / "damaged-2").is_dir(), "kept, not deleted"


def test_no_flipped_bit_on_disk_restores_wrong_values(tmp_path):
    """Whatever bit is flipped, what comes back is checkpoint 2 or, where it shows, 1."""
    save_two(tmp_path)
    good = [jax.tree.map(np.asarray, make_state(float(value))) for value in (1, 2)]
    found = set()
    for file in data_files(tmp_path / "checkpoints" / "2"):
        content = file.read_bytes()
        for place in np.linspace(0, len(content) - 1, 12).astype(int):
            damaged = bytearray(content)
            damaged[place] ^= 16
            file.write_bytes(damaged)
            restored = checkpoints(tmp_path).restore(make_state(0.0))
            kernel = float(restored.params["backbone"]["kernel"][0, 0])
            assert_equal(restored, good[int(kernel) - 1])
            found.add(kernel)
            aside = tmp_path / "checkpoints" / "damaged-2"
            if aside.exists():
                aside.rename(tmp_path / "checkpoints" / "2")
        file.write_bytes(content)
    assert 1.0 in found, "no flipped bit was noticed: the test flips nothing that matters"


@pytest.mark.parametrize("damage", ["truncate", "empty", "missing"])
def test_unreadable_checkpoint_falls_back(tmp_path, damage):
    save_two(tmp_path)
    step = tmp_path / "checkpoints" / "2"
    for file in data_files(step):
        if damage == "truncate":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif damage == "missing":
            file.unlink()
    if damage == "empty":
        for file in sorted(step.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    assert_equal(checkpoints(tmp_path).restore(make_state(0.0)), make_state(1.0))


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    save_two(tmp_path)
    for position in "12":
        for file in data_files(tmp_path / "checkpoints" / position):
            file.unlink()
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        checkpoints(tmp_path).restore(make_state(0.0))


def test_another_model_is_refused_and_nothing_is_set_aside(tmp_path):
    save_two(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"kernel: float32\[4, 3\] in the checkpoint, float32\[4, 5\]"
    ):
        checkpoints(tmp_path).restore(make_state(0.0, width=5))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_keeps_the_last_and_every_nth(tmp_path):
    store = checkpoints(tmp_path, keep_last=2, keep_every_steps=4)
    for position in range(1, 10):
        store.save(position, make_state(1.0), CONFIG)
    store.close()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [4, 8, 9]


def test_a_changed_config_is_refused_with_a_diff():
    old, new = config.default(), config.default()
    new.optim.base_lr = 0.1
    new.data.threads = 5
    with pytest.raises(CheckpointError) as error:
        refuse_changes(config.as_json(old), config.as_json(new))
    assert "-optim.base_lr = 0.03" in str(error.value)
    assert "+optim.base_lr = 0.1" in str(error.value)
    assert "threads" not in str(error.value)
    refuse_changes(config.as_json(old), config.as_json(new), allow=True)


def test_changes_that_do_not_matter_are_taken():
    old, new = config.default(), config.default()
    new.data.threads, new.log.every_steps, new.checkpoint.every_steps = 7, 1, 1
    refuse_changes(config.as_json(old), config.as_json(new))


@pytest.mark.parametrize("name", ["drop_path", "norm_eps"])
def test_an_option_that_the_checkpoint_does_not_know_has_its_default(name):
    old, new = config.as_json(config.default()), config.default()
    del old["model"]["vit"][name]
    refuse_changes(old, config.as_json(new))
    new.model.vit[name] = 0.1
    with pytest.raises(CheckpointError, match=rf"\+model.vit.{name} = 0.1"):
        refuse_changes(old, config.as_json(new))


def test_what_another_process_cannot_read_no_process_takes(tmp_path, caplog):
    """Its problem comes by the exchange, in which this process has none."""
    save_two(tmp_path)

    def exchange(value, what):
        return [value, "cut short" if what == "all to read checkpoint 2" else value]

    store = Checkpoints(tmp_path, config.default().checkpoint, exchange)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_LATER", ())
        assert_equal(store.restore(make_state(0.0)), make_state(1.0))
    assert "CHECKPOINT 2 IS DAMAGED (for process 1: cut short)" in caplog.text


def test_a_file_that_another_process_does_not_see_yet_is_waited_for(tmp_path, monkeypatch):
    save_two(tmp_path)
    monkeypatch.setattr(checkpoint, "_LATER", (0.0, 0.0))
    late = iter(["no such file", "no such file"])
    read = "all to read checkpoint 2"
    store = Checkpoints(
        tmp_path,
        config.default().checkpoint,
        lambda value, what: [value, next(late, "") if what == read else value],
    )
    assert_equal(store.restore(make_state(0.0)), make_state(2.0))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_trouble_in_reading_is_no_damage(tmp_path, monkeypatch):
    """A file server that is away must not have a good checkpoint set aside."""
    save_two(tmp_path)
    monkeypatch.setattr(files, "DELAYS", (0.0,))
    times = iter([OSError(errno.ESTALE, "Stale file handle")])

    def read_meta(step):
        for error in times:
            raise error
        return sealed.read_meta(step)

    monkeypatch.setattr(checkpoint, "read_meta", read_meta)
    assert_equal(checkpoints(tmp_path).restore(make_state(0.0)), make_state(2.0))
    times = iter([OSError(errno.EIO, "Input/output error")] * 9)
    with pytest.raises(StorageError, match="Input/output error"):
        checkpoints(tmp_path).restore(make_state(0.0))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "DELAYS", (0.2,) * 10)  # what else was begun still ends
    save, errors = ocp.JsonCheckpointHandler.async_save, iter([OSError(errno.ENOSPC, "full")] * 2)

    async def failing(*args, **kwargs):
        for error in errors:
            raise error
        return await save(*args, **kwargs)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", failing)
    with checkpoints(tmp_path) as store:
        store.save(1, make_state(1.0), CONFIG, wait=True)
        assert not store.failed()
    assert caplog.text.count("full") >= 2
    assert_equal(checkpoints(tmp_path).restore(make_state(0.0)), make_state(1.0))


@pytest.mark.parametrize("lost", ["sha256", "checksums"])
def test_the_checksums_have_one_of_their_own(lost, tmp_path, caplog):
    save_two(tmp_path)
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    del content[lost]
    content["config"]["seed"] = 7
    meta.write_text(json.dumps(content))
    assert checkpoints(tmp_path).newest_config() == (CONFIG if lost == "checksums" else {"seed": 7})
    assert str(meta) in caplog.text, "an older version has no checksum of them: that is said"


def test_what_a_failed_save_has_left_is_not_told_after_the_end(caplog):
    """Its tasks tell of their exceptions when they are collected, whenever that is."""

    async def write():
        raise OSError(errno.ENOSPC, "No space left on device")

    heard, loop = failures.Failures(), asyncio.new_event_loop()
    task = loop.create_task(write())
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    heard.last, cycle = OSError(), [task]
    cycle.append(cycle)
    del task, cycle
    heard.close()
    gc.collect()
    assert "never retrieved" not in caplog.text
