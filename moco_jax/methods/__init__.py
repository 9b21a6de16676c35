"""The registry of methods: a new one is a file and a line here."""

from moco_jax.config import ConfigDict, choose
from moco_jax.methods import moco, moco_v3, supervised
from moco_jax.methods.base import Method, Views

METHODS = {"moco": moco.make, "moco_v3": moco_v3.make, "supervised": supervised.make}


def make_method(
    config: ConfigDict, image_shape: tuple[int, ...], views: Views, steps: int, classes: int = 0
) -> Method:
    """Builds the method that `config.method.name` names; the arguments are its `make`'s."""
    name = choose("method.name", config.method.name, METHODS)
    return METHODS[name](config, image_shape, views, steps, classes)
