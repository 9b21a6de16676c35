"""A study: runs that differ in what is asked, each made with several seeds.

A file of `configs/study/` has `get_study(size) -> Study`; `python -m moco_jax study` runs it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moco_jax.errors import InputError

SIZES = ("demo", "cifar10", "imagenet")
_NAME = re.compile(r"[\w=.,+-]+")  # of a folder, on any system


class Member(NamedTuple):
    """One thing that is compared.

    Attributes:
      name: in tables, and of the folders of its runs.
      config: as --config takes it: 'configs/v1_r50.py:m=0.99'.
      published: linear top-1 on ImageNet in per cent, where a paper has it.
    """

    name: str
    config: str
    published: float | None = None


class Study(NamedTuple):
    """What is compared.

    Attributes:
      members: with names of their own.
      seeds: of each member's runs.
      options: dotted option -> value, what all members have beside their configs.
    """

    members: Sequence[Member]
    seeds: Sequence[int]
    options: Mapping[str, Any] = {}


def varied(config: str, arguments: Mapping[str, float | None] | Sequence[str]) -> list[Member]:
    """Members of one config, each with another argument, whose name is the argument.

    Args:
      config: 'configs/v2_r50.py:200', to which the arguments are added; 'mlp=off' and the like.
      arguments: with published figures, or alone; '' is the config as it is, and is named 'as-is'.
    """
    published = arguments if isinstance(arguments, Mapping) else {}
    return [
        Member(text or "as-is", f"{config},{text}" if text else config, published.get(text))
        for text in arguments
    ]


def check(study: Study) -> None:
    """Refuses a study that cannot be run.

    Raises:
      InputError: it is no Study, has no members or seeds, or a name or seed cannot be used.
    """
    if not isinstance(study, Study):
        raise InputError(f"get_study() gives {type(study).__name__}, expected a Study")
    names = [member.name for member in study.members]
    for what, values in (("members", names), ("seeds", study.seeds)):
        if not values:
            raise InputError(f"a study without {what}")
        if twice := [value for value in values if list(values).count(value) > 1]:
            raise InputError(f"{what} of a study: {twice[0]!r} is there twice")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"member {name!r}: expected letters, digits and any of = . , + - _")
    for seed in study.seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed {seed!r}: expected a whole number, at least 0")
