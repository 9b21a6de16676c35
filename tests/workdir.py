"""A workdir without a training."""

import contextlib

import jax

from moco_jax.checkpoint import Checkpoints, named
from moco_jax.training import experiment


def write_workdir(path, config, change=lambda name, leaf: leaf):
    """A workdir whose checkpoint is the state before training, changed leaf by leaf."""
    x = experiment.build(config)
    state = experiment.fresh_state(x)
    leaves = [change(name, leaf) for name, leaf in named(state).items()]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    with contextlib.closing(Checkpoints(path, config.checkpoint)) as store:
        store.save(0, state, experiment.recorded(x))
    return x, state
