"""A short pre-training, and the config of a probe on it."""

from moco_jax.training import loop
from tests.tiny import probe_config, tiny_config, write_npz


def train(folder):
    """The source, and the workdir of a short pre-training with BatchNorm in groups."""
    source = write_npz(folder / "images.npz", test_images=36)
    c = tiny_config("v1", source)
    c.epochs, c.knn.every_epochs = 1.0, 0.0
    assert loop.run(c, folder / "run") == 0
    return source, folder / "run"


def sweep(source, init, augment=True):
    c = probe_config(source)
    c.init = str(init)
    c.supervised.update(augment=augment, lrs=(0.03, 1.0), batch_norm=True, held_out=0.2)
    c.epochs = 4.0 if augment else 16.0
    return c
