"""Arguments of a config file: a variant, and what is changed in it.

`--config=configs/v3_vit.py:b16,pos=learned,lr=1e-4` is ViT-B with a learned position embedding and
another base learning rate.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError

# Changes a config as the text of a value says; raises InputError where it says nothing known.
Ablation = Callable[[ConfigDict, str], None]


def ablated(
    argument: str,
    recipe: Callable[[str], ConfigDict],
    variants: Sequence[str],
    known: Mapping[str, Ablation],
) -> ConfigDict:
    """The config that an argument names.

    Args:
      argument: what stands after the colon: a variant, NAME=VALUE, or several with commas.
      recipe: variant -> config.
      variants: all of them; the first is meant where none is named.
      known: ablations by name.

    Raises:
      InputError: an unknown variant, name or value, with those that are known; or a name twice.
    """
    first, *rest = argument.split(",")
    if "=" in first:
        first, rest = variants[0], [first, *rest]
    c = recipe(choose("variant", first or variants[0], variants))
    names = [item.partition("=")[0] for item in rest]
    if len(set(names)) < len(names):
        raise InputError(f"{argument!r} names an ablation twice")
    for item in rest:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} in {argument!r}: expected NAME=VALUE, with NAME one of "
                             f"{', '.join(sorted(known))}")  # fmt: skip
        known[choose("ablation", name, known)](c, value)
    return c


def number(option: str, kind: type = float) -> Ablation:
    """An ablation whose value is a number of an option, such as 'method.temperature'.

    Args:
      option: its dotted name.
      kind: int or float.

    Raises:
      InputError: from the ablation, where a value is no such number.
    """

    def change(c: ConfigDict, value: str) -> None:
        try:
            parsed = kind(value)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise InputError(f"{option}={value!r}: expected {expected}") from None
        c.update_from_flattened_dict({option: parsed})

    return change


def one_of(name: str, values: Mapping[str, Mapping[str, Any] | Callable]) -> Ablation:
    """An ablation with named values.

    Args:
      name: of the ablation, for an error.
      values: what each sets, by dotted option, or a function that changes the config.
    """

    def change(c: ConfigDict, value: str) -> None:
        made = values[choose(name, value, values)]
        if callable(made):
            made(c)
        else:
            c.update_from_flattened_dict(dict(made))

    return change


BATCH, RATE = number("data.batch_size", int), number("optim.base_lr")
