"""The training step in slices of the batch: the same numbers in less memory."""

from collections import Counter

import jax
import numpy as np
import pytest

from moco_jax import mesh
from moco_jax.methods.method import Batch
from moco_jax.training import experiment
from tests.hlo import collectives, in_loops
from tests.tiny import RECIPES, tiny_config, write_npz


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz")


def build(name, source, accumulate):
    """Four images on each of the eight devices."""
    c = tiny_config("v1" if name == "resnet" else name, source)
    if name == "resnet":
        c.model.name, c.model.resnet.stem, c.model.resnet.width = "resnet18", "cifar", 1 / 16
    c.data.batch_size, c.accumulate = 32, accumulate
    return experiment.build(c)


def losses_and_gradients(x, batch):
    """Loss, new method state and gradients, of the fresh state."""

    entries = Batch(batch, x.augment)

    def loss(params, state):
        return x.task.loss(params, state.method_state, entries, jax.random.key(5), state.step)

    state = experiment.fresh_state(x)
    f = jax.jit(mesh.inside(x.mesh, jax.value_and_grad(loss, has_aux=True)))
    return f(state.params, state)


SLICES = {name: 2 if c().optim.name == "sgd" else 4 for name, c in RECIPES.items()} | {"resnet": 2}


@pytest.mark.parametrize(("name", "accumulate"), SLICES.items())
def test_slices_give_the_same_gradient_and_state(name, accumulate, source):
    """Float32. Sums run in another order: 1e-5 of the tree's length; of single arrays 1e-4 of the
    largest value, or of a hundredth of the tree's where the array's own is only rounding (biases
    before a BatchNorm)."""
    whole, sliced = (build(name, source, n) for n in (1, accumulate))
    with experiment.train_batches(whole, 0) as batches:
        batch = batches.get()
    (expected, (state, _)), gradients = losses_and_gradients(whole, batch)
    (loss, (sliced_state, _)), sliced_gradients = losses_and_gradients(sliced, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

    for tree, other in ((gradients, sliced_gradients), (state, sliced_state)):
        leaves, others = (
            [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(t)] for t in (tree, other)
        )
        differences = [a - b for a, b in zip(leaves, others, strict=True)]
        assert length(differences) <= 1e-5 * length(leaves)
        largest = max(np.abs(leaf).max() for leaf in leaves)
        for leaf, difference in zip(leaves, differences, strict=True):
            assert np.abs(difference).max() <= 1e-4 * max(np.abs(leaf).max(), largest / 100)


def length(leaves):
    return sum(np.sum(leaf**2) for leaf in leaves) ** 0.5


def test_slices_send_nothing_more(source):
    """The same bytes as the whole batch, and none in a loop: gradients are summed first."""
    sent = []
    for accumulate in (1, 4):
        x = build("v3", source, accumulate)
        with experiment.train_batches(x, 0) as batches:
            batch = batches.get()
        step = experiment.make_step(x).lower(experiment.abstract_state(x), batch).compile()
        assert not in_loops(step)
        total = Counter()
        for kind, array, _ in collectives(step):
            total[kind, array.dtype] += array.bytes
        sent.append(total)
    assert sent[0] == sent[1]


@pytest.mark.parametrize(
    ("name", "group", "accumulate", "message"),
    [
        ("v3", 0, 3, r"accumulate=3 must divide the 4 images of a device .* nearest: 2"),
        ("v3", 0, 0, r"accumulate=0: expected a whole number, at least 1"),
        ("v1", 2, 4, r"accumulate=4 .* groups of 2 \(method.bn_group_size\); nearest: 2"),
        ("v1", 8, 2, r"accumulate=2 .* groups of 8 .* nearest: 1"),
        ("v1", 0, 2, r"accumulate=2 is not exact with BatchNorm over the whole batch in vit_tiny"),
    ],
)
def test_slices_that_would_not_be_exact_are_refused(name, group, accumulate, message, source):
    c = tiny_config(name, source)
    c.data.batch_size, c.accumulate, c.method.bn_group_size = 32, accumulate, group
    with pytest.raises(ValueError, match=message):
        experiment.build(c)
