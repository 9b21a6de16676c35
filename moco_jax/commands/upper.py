"""Protocols of an upper floor, which are loaded only where they are asked for."""

from types import ModuleType

from ml_collections import ConfigDict


def upper(config: ConfigDict) -> ModuleType | None:
    """What a protocol of an upper floor builds experiments by: `build`, and `planned` for a plan.

    Args:
      config: of the run.

    Returns:
      Its module; None: the protocol is of the floors below.
    """
    if config.protocol == "detection":
        from moco_jax.detection import protocol

        return protocol
    if config.protocol == "segmentation":
        from moco_jax.detection import pixel_protocol

        return pixel_protocol
    return None
