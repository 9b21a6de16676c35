"""What lies inside a file: its networks, wherever they are nested and whatever stands before them.

A nested dict is a name with more dots. So one rule finds 'state_dict.module.encoder_q.conv1.weight'
and a file that begins with 'conv1.weight': a network is where names of a scheme are.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from moco_jax.convert.contents import ROLES
from moco_jax.convert.hints import Hints
from moco_jax.convert.placeholders import Array, Record, Tensor
from moco_jax.convert.schemes import SCHEMES
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

Tensors = dict[str, np.ndarray]

MAX_DEPTH = 32  # of nested dicts
MAX_NAME = 300  # characters
SHOWN = 10  # names in a message
# Shells that PyTorch puts around a module: they hold nothing of their own.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
KEY_WORDS = {"momentum", "teacher", "ema", "target", "k", "key"}
# What a network has beside its blocks, and a part of another network has not.
_ENDS = ("conv1.", "bn1.", "patch_embed.", "cls_token", "pos_embed", "norm.")


class Network(NamedTuple):
    """A network in a file.

    Attributes:
      prefix: what stands in front of its names: '', or with a dot at its end.
      scheme: key of SCHEMES.
      tensors: under the names of torchvision or timm.
    """

    prefix: str
    scheme: str
    tensors: Tensors

    @property
    def name(self) -> str:
        """What messages and the option call it."""
        return self.prefix.rstrip(".") or "the top level"

    @property
    def words(self) -> set[str]:
        """Of its name."""
        return set(re.split(r"[._]", self.prefix.lower()))

    @property
    def role(self) -> str:
        """'query', or 'key' where the name is of a moving average."""
        return "key" if self.words & KEY_WORDS else "query"


def flatten(tree: dict) -> Tensors:
    """All tensors of nested dicts and modules, by their names joined with dots, without wrappers.

    Raises:
      CheckpointError: two of the same name, or nested without end.
    """
    out: Tensors = {}
    seen: set[int] = set()

    def walk(record: dict, prefix: tuple[str, ...]) -> None:
        if id(record) in seen:
            return
        seen.add(id(record))
        if len(prefix) > MAX_DEPTH:
            raise CheckpointError(f"dicts nested more than {MAX_DEPTH} deep")
        for key, value in _entries(record):
            path = (*prefix, *(part for part in key.split(".") if part not in WRAPPERS))
            if isinstance(value, dict):
                walk(value, path)
            elif isinstance(value, Tensor | Array | np.ndarray):
                name = ".".join(path)
                if name in out or len(name) > MAX_NAME:
                    raise CheckpointError(f"two tensors called {name[:MAX_NAME]}, or too long")
                out[name] = value if isinstance(value, np.ndarray) else value.numpy()

    walk(tree, ())
    return out


def _entries(record: dict) -> Iterable[tuple[str, Any]]:
    """The items of a dict; of a pickled module its tensors and its modules."""
    said = record.said if isinstance(record, Record) else record.get
    inside = [said(name) for name in ("_parameters", "_buffers", "_modules")]
    for held in (*(r for r in inside if isinstance(r, dict)), record):
        for key, value in held.items():
            if isinstance(key, str) and len(key) <= MAX_NAME:
                yield key, value


def networks(tensors: Tensors) -> list[Network]:
    """The networks among tensors, each with all that lies under its prefix and under no other's."""
    found: dict[str, str] = {}
    for name in tensors:
        for scheme, (_, block, _) in SCHEMES.items():
            if match := block.match(name):
                found.setdefault(match[1], scheme)
    inside: dict[str, Tensors] = {prefix: {} for prefix in found}
    by_length = sorted(found, key=len, reverse=True)
    for name, tensor in tensors.items():
        prefix = next((p for p in by_length if name.startswith(p)), None)
        if prefix is not None:
            inside[prefix][name.removeprefix(prefix)] = tensor
    all_of_them = [Network(p, s, SCHEMES[s].rename(inside[p])) for p, s in found.items()]
    return [n for n in all_of_them if any(name.startswith(_ENDS) for name in n.tensors)]


def choose(found: list[Network], hints: Hints) -> Network:
    """One of several networks.

    Args:
      found: the networks.
      hints: `encoder` is a key of ROLES, or a network's name or a part of that; None: the teacher
        where there is a student too, as DINO is evaluated; else the one that is no average.

    Raises:
      CheckpointError: there is none, none such, or more than one.
    """
    if hints.encoder is None:
        if any("student" in n.words for n in found):
            fitting = [n for n in found if "teacher" in n.words] or found
        else:
            fitting = [n for n in found if n.role == "query"] or found
    else:
        fitting = [n for n in found if hints.encoder in (n.name, *n.name.split("."))]
        role = ROLES.get(hints.encoder)
        fitting = fitting or [n for n in found if hints.encoder in n.words]
        fitting = fitting or [n for n in found if n.role == role]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{n.name} ({n.role})" for n in found[:SHOWN])
    if fitting:
        problem = f"several networks in it could be meant: {names}"
    else:
        problem = f"there is no {hints.encoder} encoder in it, only {names}"
    raise CheckpointError(problem + hints.offer("encoder", "; {} chooses one"))


def report(chosen: Network, found: list[Network], tensors: Tensors, others: list[str]) -> None:
    """Logs what was taken, which other networks there are, and what is left out.

    Args:
      chosen: what is taken.
      found: all networks.
      tensors: of the whole file.
      others: what else is left out.
    """
    rest = [n for n in tensors if not any(n.startswith(net.prefix) for net in found)]
    parts = [f"its names are those of {SCHEMES[chosen.scheme].title}"]
    if chosen.prefix:
        parts.append(f"behind {chosen.prefix!r}")
    if beside := [n.name for n in found if n is not chosen]:
        parts.append(f"there too: {', '.join(beside[:SHOWN])} (--encoder)")
    if left := [*dict.fromkeys([*(_group(n, found) for n in rest), *others])]:
        more = [f"and {len(left) - SHOWN} more"] if len(left) > SHOWN else []
        parts.append(f"left out: {', '.join([*left[:SHOWN], *more])}")
    log.info("The network taken: %s", "; ".join(parts))


def _group(name: str, found: list[Network]) -> str:
    """What a tensor belongs to: its name down to where it parts from the networks'."""
    path = name.split(".")

    def shared(network: Network) -> int:
        own = network.prefix.split(".")
        return next((i for i, (a, b) in enumerate(zip(path, own)) if a != b), 0)

    return ".".join(path[: max(map(shared, found)) + 1])
