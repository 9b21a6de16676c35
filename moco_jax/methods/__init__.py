"""The registry of methods: a new one is a file and a line here."""

from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError
from moco_jax.methods import moco, moco_v3
from moco_jax.methods.base import Method, Views
from moco_jax.protocols import supervised

METHODS = {"moco": moco.make, "moco_v3": moco_v3.make, "supervised": supervised.make}


def make_method(
    config: ConfigDict, image_shape: tuple[int, ...], views: Views, steps: int, classes: int = 0
) -> Method:
    """Builds the method that `config.method.name` names; the arguments are its `make`'s.

    Raises:
      InputError: an unknown name, or options that do not fit the method.
    """
    name, drop_path = choose("method.name", config.method.name, METHODS), config.model.vit.drop_path
    if drop_path and name != "supervised":
        raise InputError(
            f"model.vit.drop_path={drop_path}: expected 0 with method.name={name!r}; stochastic "
            f"depth belongs to fine-tuning"
        )
    return METHODS[name](config, image_shape, views, steps, classes)
