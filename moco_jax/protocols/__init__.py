"""The registry of protocols: evaluations that train on labels, in the one loop."""

from moco_jax.config import ConfigDict, choose
from moco_jax.methods import Facts, Method, make_method
from moco_jax.protocols import supervised
from moco_jax.protocols.supervised import Supervised

# (config, facts) -> what is trained; the other of `config.PROTOCOLS` is of an upper floor
MAKERS = {"pretraining": make_method, "supervised": supervised.make}


def make_task(config: ConfigDict, facts: Facts) -> Method | Supervised:
    """Builds what the run trains: a method, or a protocol on labels.

    Args:
      config: of the run.
      facts: of its data and length.

    Raises:
      InputError: an unknown name, or options that do not fit each other.
    """
    return MAKERS[choose("protocol", config.protocol, MAKERS)](config, facts)
