"""The mesh, and how the state lies on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from moco_jax import mesh
from moco_jax.checkpoint import Checkpoints, checksums_of, named
from moco_jax.training import experiment
from tests.tiny import tiny_config, write_npz


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz")


def build(source, method="v3", **options):
    c = tiny_config(method, source)
    c.mesh.update(options)
    return experiment.build(c)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 512), (None, "fsdp")),
        ((512, 128), ("fsdp",)),
        ((256, 256), (None, "fsdp")),
        ((3, 3, 64, 129), (None, None, "fsdp")),
        ((129, 131), ()),
        ((4096,), ()),
        ((), ()),
    ],
)
def test_the_largest_axis_that_can_be_split_is(shape, spec):
    assert mesh.parameter_spec(shape, 4) == PartitionSpec(*spec)
    assert mesh.parameter_spec(shape, 1) == PartitionSpec()


@pytest.mark.parametrize("fsdp", [2, 8])
def test_a_devices_share_of_the_state_falls_with_fsdp(source, fsdp):
    c = tiny_config("v3", source)
    c.model.vit.update(width=128, heads=4)
    c.method.projector.hidden = c.method.predictor.hidden = 256

    def bytes_on_a_device(fsdp):
        c.mesh.fsdp = fsdp
        state = experiment.fresh_state(experiment.build(c))
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

    ratio = bytes_on_a_device(1) / bytes_on_a_device(fsdp)
    assert 0.85 * fsdp < ratio <= fsdp


def test_restores_onto_other_meshes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    x = build(source, fsdp=2)
    state = experiment.fresh_state(x)
    store = Checkpoints(tmp_path / "run", x.config.checkpoint)
    store.save(1, state, {})
    store.wait()
    for devices, fsdp in ((8, 4), (4, 1), (1, 1)):
        other = x._replace(mesh=mesh.make_mesh(jax.devices()[:devices], fsdp))
        restored = store.restore(experiment.abstract_state(other))
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        jax.tree.map(
            lambda leaf, sharding: leaf.sharding == sharding or pytest.fail(str(leaf.sharding)),
            restored,
            experiment.state_shardings(other),
        )


def test_checksums_do_not_depend_on_the_sharding(source, monkeypatch):
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    x = build(source, fsdp=4)
    state = experiment.fresh_state(x)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    whole = jax.device_put(state, jax.devices()[0])
    assert checksums_of(named(state)) == checksums_of(named(whole))


def test_queue_by_rows(source):
    x = build(source, "v1", shard_queue=True)
    queue = experiment.abstract_state(x).method_state["queue"]
    assert queue.sharding.shard_shape(queue.shape) == (5, 8)
    x = build(source, "v1")
    assert experiment.abstract_state(x).method_state["queue"].sharding.is_fully_replicated


def test_a_queue_that_cannot_be_split_is_refused(source):
    c = tiny_config("v1", source)
    c.mesh.shard_queue, c.method.queue_size = True, 37
    with pytest.raises(ValueError, match=r"queue_size=37 .* 8 devices .* nearest: 32 or 40"):
        experiment.build(c)


@pytest.mark.parametrize(("fsdp", "near"), [(3, 2), (0, 1), (16, 8)])
def test_fsdp_must_divide_the_devices(fsdp, near):
    with pytest.raises(ValueError, match=rf"mesh.fsdp={fsdp} .* 8 devices; nearest: {near}"):
        mesh.make_mesh(fsdp=fsdp)


def test_gathering_has_the_gradient_of_the_identity():
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(mesh.gathered(x) ** 2))(x), 2 * x)
