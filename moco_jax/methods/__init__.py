"""The registry of methods: a new one is a file and a line here."""

from moco_jax.config import ConfigDict, choose
from moco_jax.methods import moco, moco_v3, supervised
from moco_jax.methods.base import Method, Views

METHODS = {"moco": moco.make, "moco_v3": moco_v3.make, "supervised": supervised.make}


def make_method(
    config: ConfigDict, image_shape: tuple[int, ...], views: Views, steps: int, classes: int = 0
) -> Method:
    """Builds the method that `config.method.name` names; the arguments are its `make`'s.

    Raises:
      ValueError: an unknown name, or options that do not fit the method.
    """
    name, drop_path = choose("method.name", config.method.name, METHODS), config.model.vit.drop_path
    if drop_path and name != "supervised":
        raise ValueError(
            f"model.vit.drop_path={drop_path}: expected 0 with method.name={name!r}; stochastic "
            f"depth belongs to fine-tuning"
        )
    return METHODS[name](config, image_shape, views, steps, classes)
