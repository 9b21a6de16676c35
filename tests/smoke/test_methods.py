"""What every method keeps: exact resume, the guard, its state by rows, its encoder's way out.

One compiled step each, on eight devices with parameters and queues split.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moco_jax
from moco_jax import convert, mesh
from moco_jax.checkpoint import Checkpoints
from moco_jax.errors import CheckpointError, InputError
from moco_jax.training import experiment
from moco_jax.training.first_state import first_state
from tests.tiny import RECIPES, tiny_config, write_npz


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("method", RECIPES)
def test_resumes_exactly_and_leaves_out_what_is_not_finite(method, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    c = tiny_config(method, write_npz(tmp_path / "images.npz"))
    c.mesh.update(fsdp=2, shard_queue=True)
    x = experiment.build(c)
    step, store = experiment.make_step(x), Checkpoints(tmp_path / "run", c.checkpoint)

    def train(state, steps):
        with experiment.train_batches(x, int(state.position)) as batches:
            for _ in range(steps):
                state, _ = step(state, batches.get())
        return state

    state = train(experiment.fresh_state(x), 7)
    store.save(7, state, experiment.recorded(x))
    store.wait()
    c.init = str(tmp_path / "run")
    equal(first_state(x, tmp_path), state)  # another run goes on from there
    whole = jax.device_get(train(state, 6))
    resumed = train(store.restore(experiment.abstract_state(x)), 6)
    equal(jax.device_get(resumed), whole)
    assert whole.step == 13

    # A weight that is not a number makes loss and gradient such: nothing changes but the count.
    projector = resumed.params["projector"]
    bad = projector | {"fc1": jax.tree.map(lambda p: p * jnp.nan, projector["fc1"])}
    broken = resumed._replace(params=resumed.params | {"projector": bad})
    before = jax.device_get(broken)
    after = jax.device_get(train(broken, 1))
    np.testing.assert_array_equal(after.skipped, [1, 1])
    equal(after._replace(skipped=before.skipped), before)

    check_conversion(tmp_path / "run", c.method.name, tmp_path)


def check_conversion(workdir, name, folder):
    """The encoder can be taken out; training files are for methods that have official ones."""
    encoder = moco_jax.load(workdir)
    assert encoder(np.zeros((12, 12, 1), np.uint8)).shape == (1, 16)
    for to in ("moco", "moco_v3"):
        if to != name:
            with pytest.raises(CheckpointError, match=f"a {name} training is not one of {to}"):
                convert.convert(workdir, folder / f"{to}.pth.tar", to)
    if name not in ("moco", "moco_v3"):
        with pytest.raises(InputError, match="tells no format"):
            convert.convert(workdir, folder / "it.pth.tar")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("simclr", {"predictor.layers": 2}, "predictor.layers=2 must be 0: method 'simclr'"),
        ("end_to_end", {"predictor.layers": 1}, "predictor.layers=1 must be 0"),
        ("byol", {"predictor.layers": 0}, "'byol' collapses without a predictor"),
        ("byol", {"predictor.out": 4}, "predictor.out=4 must equal method.projector.out=8"),
        ("memory_bank", {"bank_loss": "infonce"}, "did you mean 'info_nce'"),
        ("memory_bank", {"queue_size": 0}, "queue_size=0 must be at least 1"),
        ("swav", {"queue_size": -1}, "queue_size=-1: expected a whole number"),
        ("swav", {"swav.prototypes": 0}, "prototypes=0: expected a whole number"),
        ("swav", {"swav.epsilon": 0.0}, "epsilon=0.0: expected above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(method, options, message, tmp_path):
    c = tiny_config(method, write_npz(tmp_path / "images.npz"))
    c.method.update_from_flattened_dict(options)
    with pytest.raises(InputError, match=message):
        experiment.build(c)


@pytest.mark.parametrize(
    ("size", "position", "message"),
    [
        (8, "learned", "position='learned' .* method.swav.small_views of 8 need"),
        (10, "sincos", "10 pixels .* patch size 4; nearest: 8"),
    ],
)
def test_small_views_that_do_not_fit_are_refused(size, position, message, tmp_path):
    c = tiny_config("swav", write_npz(tmp_path / "images.npz"))
    c.data.small_view.size, c.model.vit.position = size, position
    with pytest.raises(InputError, match=message):
        experiment.build(c)


def test_a_bank_lies_by_rows_and_a_batch_writes_its_own(tmp_path):
    x = experiment.build(tiny_config("memory_bank", write_npz(tmp_path / "images.npz")))
    state, step = experiment.fresh_state(x), experiment.make_step(x)
    bank = state.method_state["bank"]
    assert bank.sharding.shard_shape(bank.shape) == (1024 // 8, 8)
    before = np.asarray(bank)
    with experiment.train_batches(x, 0) as batches:
        batch = batches.get()
        index = np.asarray(batch["index"])
        state, _ = step(state, batch)
    after = np.asarray(state.method_state["bank"])
    changed = np.flatnonzero((before != after).any(1))
    np.testing.assert_array_equal(changed, np.sort(index))
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)


def test_prototypes_have_length_one_and_rest_for_an_epoch(tmp_path):
    """80 images are 5 steps of 16."""
    x = experiment.build(tiny_config("swav", write_npz(tmp_path / "images.npz")))
    state, step, seen = experiment.fresh_state(x), experiment.make_step(x), []
    with experiment.train_batches(x, 0) as batches:
        for _ in range(7):
            seen.append(np.asarray(state.params["prototypes"]["kernel"]))
            state, _ = step(state, batches.get())
    for number, prototypes in enumerate(seen[1:], 1):
        assert np.array_equal(prototypes, seen[0]) == (number <= 5)
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-5)
