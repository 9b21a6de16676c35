"""Which options have a meaning for a run: the others differ between runs and say nothing."""

from collections.abc import Sequence
from typing import Any

from moco_jax import config as options
from moco_jax.identity import NOT_IDENTITY

Config = dict[str, Any]

_NO_MATTER = ("log", "checkpoint", "compilation_cache", "backend")  # for what comes out
# Options by the beginnings of their names -> the option that decides, and its values.
_ONLY = {
    "model.resnet.": ("model.name", ("resnet",)),
    "model.vit.": ("model.name", ("vit",)),
    "method.swav.": ("method.name", ("swav",)),
    "data.small_view.": ("method.name", ("swav",)),
    "method.bank_loss": ("method.name", ("memory_bank",)),
    "method.queue_size": ("method.name", ("moco", "memory_bank", "swav")),
    "method.ema": ("method.name", ("moco", "byol")),
    "method.temperature": ("method.name", ("moco", "simclr", "end_to_end", "memory_bank", "swav")),
    "method.predictor.": ("method.name", ("moco_v3", "byol")),
    "method.": ("protocol", ("pretraining",)),
    "data.view2.": ("protocol", ("pretraining",)),
    "supervised.": ("protocol", ("supervised",)),
    "detection.": ("protocol", ("detection",)),
    "segmentation.": ("protocol", ("segmentation",)),
    "optim.momentum": ("optim.name", ("sgd", "lars")),
    "optim.b1": ("optim.name", ("adamw", "lamb")),
    "optim.b2": ("optim.name", ("adamw", "lamb")),
    "optim.eps": ("optim.name", ("adamw", "lamb")),
    "optim.trust_coefficient": ("optim.name", ("lars",)),
    "optim.step_": ("optim.schedule", ("step",)),
}
_EXACTLY = {  # where one name is the beginning of another's
    "method.shuffle_bn": ("method.name", "moco"),
    "method.symmetric": ("method.name", "moco"),
}
_OF_OPERATIONS = ("jitter", "grayscale", "blur", "solarize", "flip", "erase", "randaugment")


def differences(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Options that apply to several runs and differ among these: each run's value, or None.

    Args:
      configs: of the runs, nested, as in config.json.
    """
    flat = [{"protocol": "pretraining"} | options.flat(config) for config in configs]
    found = {}
    for name in sorted(set().union(*flat)):
        values = [c.get(name) if applies(name, c) else None for c in flat]
        there = [value for value in values if value is not None]
        if there != there[:1] * len(there):
            found[name] = values
    return found


def applies(name: str, flat: Config) -> bool:
    """Whether an option changes what comes out of a run with these options, by dotted names.

    Args:
      name: of the option, dotted.
      flat: all options of the run by dotted names.
    """
    if name in NOT_IDENTITY or name.partition(".")[0] in _NO_MATTER or _is_interval(name):
        return False
    if name in _EXACTLY:
        decides, value = _EXACTLY[name]
        return flat.get(decides) in (None, value)
    for start, (decides, values) in _ONLY.items():
        if name.startswith(start) and not str(flat.get(decides, values[0])).startswith(values):
            return False
    if name == "extension":
        return bool(flat.get("extended_from"))
    return _has_layers(name, flat) and _is_operated(name, flat)


def _is_interval(name: str) -> bool:
    """Whether an option says how often something is measured."""
    return name.endswith(".every_epochs")


def _has_layers(name: str, flat: Config) -> bool:
    """Whether the head that an option is of has layers."""
    head, _, option = name.rpartition(".")
    return option == "layers" or flat.get(f"{head}.layers", 1) != 0


def _is_operated(name: str, flat: Config) -> bool:
    """Whether the view that an option is of has the operation that it is a setting of."""
    view, _, option = name.rpartition(".")
    operation = option.partition("_")[0]
    order = flat.get(f"{view}.order")
    return order is None or operation not in _OF_OPERATIONS or operation in order
