"""Groups of parameters, by path and number of dimensions, and what the log says of them.

Every parameter is 'regular' (decay and trust ratio), 'excluded' (trained without either) or
'frozen'.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate
from typing import Any

import jax

from moco_jax.config import ConfigDict
from moco_jax.errors import InputError


def parameter_groups(optim: ConfigDict, params: Any) -> Any:
    """The tree of `params` with 'regular', 'excluded' or 'frozen' for each leaf.

    A parameter is frozen when one of the regular expressions in `optim.freeze` is found
    anywhere in its path (re.search), such as 'backbone/conv1/kernel'; '^' and '$' bind it. It is
    excluded by one of `optim.exclude`, or by `optim.exclude_1d`.

    Raises:
      InputError: a pattern that is no regular expression or matches nothing, or patterns that
        together match everything.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: _name(path), params)
    frozen = _matching(optim, "freeze", jax.tree.leaves(paths))
    excluded = _matching(optim, "exclude", jax.tree.leaves(paths))
    if len(frozen) == len(jax.tree.leaves(paths)):
        raise InputError(f"optim.freeze={tuple(optim.freeze)} leaves no parameter to train")

    def group(path: str, leaf: jax.Array) -> str:
        if path in frozen:
            return "frozen"
        by_size = optim.exclude_1d and leaf.ndim <= 1
        return "excluded" if by_size or path in excluded else "regular"

    return jax.tree.map(group, paths, params)


def layer_scales(optim: ConfigDict, params: Any, layers: Sequence[str]) -> Any:
    """The tree of `params` with what `optim.layer_decay` multiplies each learning rate by.

    As in fine-tuning BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377): 1 for the heads and the
    backbone's last norm, and one power more for each layer further down. What a backbone has
    beside its layers and `norm` (embeddings, the norms of its stem) goes with the first layer.

    Args:
      optim: `config.optim`.
      params: the parameters, or their shapes.
      layers: path prefixes, in `params`, of the backbone's layers from the first to the last.
    """
    backbone = {layer.split("/")[0] for layer in layers}

    def scale(path: tuple, leaf: jax.Array) -> float:
        del leaf
        name = _name(path) + "/"
        network, part = name.split("/")[:2]
        if network not in backbone or part == "norm":
            return 1.0
        place = next((i for i, layer in enumerate(layers) if name.startswith(f"{layer}/")), 0)
        return optim.layer_decay ** (len(layers) - place)

    return jax.tree_util.tree_map_with_path(scale, params)


def describe_optimizer(optim: ConfigDict, params: Any, layers: Sequence[str] = ()) -> list[str]:
    """Lines for the log: each group of parameters, its size, and the names in short form.

    With `optim.layer_decay`, also what it makes of the learning rate.

    Args:
      optim: `config.optim`.
      params: tree of the parameters.
      layers: path prefixes, the first layer first.
    """
    trusts = {"lars": f"trust ratio times {optim.trust_coefficient:g}", "lamb": "trust ratio"}
    trust = trusts.get(optim.name)
    titles = {
        "regular": f"decay {optim.weight_decay:g}" + (f", {trust}" if trust else ""),
        "excluded": "no decay" + (", no trust ratio" if trust else ""),
        "frozen": "frozen",
    }
    groups = parameter_groups(optim, params)
    lines = [f"{title}: {_summary(params, groups, group)}" for group, title in titles.items()]
    if optim.layer_decay != 1:
        lowest = optim.layer_decay ** len(layers)
        lines.append(
            f"learning rate times {lowest:.3g} at {layers[0]} to {optim.layer_decay:g} at "
            f"{layers[-1]}, 1 at {_summary(params, layer_scales(optim, params, layers), 1.0)}"
        )
    return [f"{optim.name}: {line}" for line in lines]


def _matching(optim: ConfigDict, name: str, paths: list[str]) -> set[str]:
    """The paths in which a pattern of the option `name` is found."""
    matching = set()
    for pattern in optim[name]:
        try:
            matched = [path for path in paths if re.search(pattern, path)]
        except re.error as error:
            raise InputError(f"optim.{name}: {pattern!r} is not valid: {error}") from None
        if not matched:
            known = {
                start for path in paths for start in accumulate(path.split("/"), "{}/{}".format)
            }
            near = ", ".join(get_close_matches(pattern, sorted(known), 3, 0.0))
            raise InputError(f"optim.{name}: {pattern!r} matches no parameter; nearest: {near}")
        matching.update(matched)
    return matching


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _summary(params: Any, labels: Any, label: Any, shown: int = 8) -> str:
    """Counts of the leaves with a label, and their paths with the numbers replaced by '*'."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(labels), strict=True)
    leaves = [leaf for leaf, other in pairs if other == label]
    if not leaves:
        return "none"
    size = sum(leaf.size for _, leaf in leaves)
    names = list(dict.fromkeys(re.sub(r"\d+", "*", _name(path)) for path, _ in leaves))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    count = "1 leaf" if len(leaves) == 1 else f"{len(leaves)} leaves"
    return f"{count}, {size:,} parameters: {', '.join(names[:shown])}{more}"
