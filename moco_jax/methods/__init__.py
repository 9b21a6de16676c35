"""The registry of methods: a new one is a file and a line here."""

from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError
from moco_jax.methods import (
    byol,
    end_to_end,
    memory_bank,
    moco,
    moco_v3,
    simclr,
    swav,
)
from moco_jax.methods.method import Facts, Method

# (config, facts) -> Method
METHODS = {
    "moco": moco.make,
    "moco_v3": moco_v3.make,
    "end_to_end": end_to_end.make,
    "memory_bank": memory_bank.make,
    "simclr": simclr.make,
    "byol": byol.make,
    "swav": swav.make,
}


def make_method(config: ConfigDict, facts: Facts) -> Method:
    """Builds the method that `config.method.name` names.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: an unknown name, or options that do not fit the method.
    """
    name, drop_path = choose("method.name", config.method.name, METHODS), config.model.vit.drop_path
    method = METHODS[name](config, facts)
    if not method.layers:
        raise InputError(f"model.name={config.model.name!r} has nothing that pre-training trains")
    if drop_path and not method.random_networks:
        raise InputError(
            f"model.vit.drop_path={drop_path}: expected 0 with method.name={name!r}; stochastic "
            f"depth belongs to fine-tuning"
        )
    return method
