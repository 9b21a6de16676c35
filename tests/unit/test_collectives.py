"""What a training step sends between the eight devices, by the text of the compiled program.

Sizes of the tiny runs: batch B = 16, features C = 8, heads of 16 hidden features.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from moco_jax import mesh
from moco_jax.training import experiment
from tests.hlo import collectives
from tests.tiny import BATCH, SIZE, tiny_config, write_npz

FEATURES, HIDDEN = 8, 16
IMAGES = BATCH * SIZE * SIZE  # bytes of one view of the batch


def compiled(method, source, **options):
    """The experiment and its compiled step for batches whose two views the host has cropped."""
    c = tiny_config(method, source)
    c.mesh.update(options)
    x = experiment.build(c)
    numbers = dict.fromkeys(("index", "epoch", "label"), jax.ShapeDtypeStruct((BATCH,), jnp.int32))
    batch = {"crops": (jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 1), jnp.uint8),) * 2} | numbers
    return x, experiment.make_step(x).lower(experiment.abstract_state(x), batch).compile()


def moved(step):
    """Bytes of each kind of collective, by dtype: of all arrays but scalars."""
    total = Counter()
    for kind, array, _ in collectives(step):
        if array.shape:
            total[kind, array.dtype] += array.bytes
    return total


def sizes(tree):
    return sum(4 * leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz")


@pytest.mark.parametrize("method", ["v1", "v2"])
def test_batch_norm_in_groups_sends_nothing(method, source):
    """What is sent: gradients, two sums for the metric, keys once, and the key view's crops."""
    x, step = compiled(method, source)
    state = experiment.abstract_state(x)
    metric = 2 * 4 * FEATURES  # mean and variance of the features
    assert moved(step) == {
        ("all-reduce", "f32"): sizes(state.params) + metric,
        ("all-gather", "f32"): 4 * BATCH * FEATURES,
        ("all-gather", "u8"): IMAGES,
        ("all-gather", "s32"): 2 * 4 * BATCH,  # epoch and index
    }
    for stats in (state.method_state["stats"], state.method_state["target"]["stats"]):
        assert all(leaf.sharding == mesh.batched(x.mesh) for leaf in jax.tree.leaves(stats))


def trained_bytes(x, split=None):
    """Bytes of the parameters that are trained; of those that are split over 'fsdp', or not."""
    params = jax.tree.leaves(experiment.abstract_state(x).params)
    return sum(
        4 * leaf.size
        for leaf, frozen in zip(params, jax.tree.leaves(x.frozen), strict=True)
        if not frozen and split in (None, not leaf.sharding.is_fully_replicated)
    )


def heads():
    """Bytes at most that the BatchNorm of v3's heads needs, and those of the metric's sums.

    A sum for the mean and one for the variance, of each view; in the gradient as many again.
    """
    widths = [HIDDEN, HIDDEN, FEATURES], [HIDDEN, FEATURES]
    online, target = sum(map(sum, widths)), sum(widths[0])
    return 2 * 2 * 4 * (2 * online + target), 2 * 2 * 4 * FEATURES


def test_v3_sends_gradients_head_statistics_and_keys(source):
    """The gradients of both views cross once, as one sum."""
    x, step = compiled("v3", source)
    gradients, (statistics, metric) = trained_bytes(x), heads()
    found = moved(step)
    assert found.keys() == {("all-reduce", "f32"), ("all-gather", "f32")}
    assert found["all-gather", "f32"] == 2 * 4 * BATCH * FEATURES
    assert 0 <= gradients + statistics + metric - found["all-reduce", "f32"] < 0.1 * statistics


def test_v3_with_split_parameters_gathers_each_once(source, monkeypatch):
    """Of both encoders. A gradient is summed over 'fsdp', then the own half of it over 'data'.

    (On GPU and TPU the first is a reduce-scatter; the CPU sums all of it and takes its half.)
    """
    monkeypatch.setattr(mesh, "MIN_SPLIT", 256)
    x, step = compiled("v3", source, fsdp=2)
    state, (statistics, metric) = experiment.abstract_state(x), heads()
    both = state.params, state.method_state["target"]["params"]
    split = [p for p in jax.tree.leaves(both) if not p.sharding.is_fully_replicated]
    gradients = 1.5 * trained_bytes(x, split=True) + trained_bytes(x, split=False)
    found = moved(step)
    assert found.keys() == {("all-reduce", "f32"), ("all-gather", "f32")}
    assert found["all-gather", "f32"] == sizes(split) + 2 * 4 * BATCH * FEATURES
    assert 0 <= gradients + statistics + metric - found["all-reduce", "f32"] < 0.1 * statistics
