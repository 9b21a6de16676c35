"""The optimizer state of MoCo's releases: PyTorch's, by the number of the parameter.

The numbers follow `model.parameters()`, which counts frozen parameters and the key encoder's too,
although these have no state.
"""

import logging
from typing import Any

import numpy as np

from moco_jax.config import ConfigDict
from moco_jax.convert.contents import Contents
from moco_jax.convert.match import ours_of, theirs_of
from moco_jax.convert.names import Row
from moco_jax.convert.placeholders import Tensor
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

# Buffers of each optimizer: name there, name here.
BUFFERS = {
    "sgd": {"momentum_buffer": "trace"},
    "lars": {"mu": "trace"},
    "adamw": {"exp_avg": "mu", "exp_avg_sq": "nu"},
}


def read(
    saved: Any, rows: list[Row], params: dict[str, np.ndarray], c: ConfigDict
) -> dict[str, np.ndarray]:
    """The optimizer state as leaves 'optimizer/...'; its settings go into `c.optim`.

    Args:
      saved: `optimizer.state_dict()` of the file.
      rows: of the whole model; those that are parameters give the order.
      params: the leaves of the model, to hold the shapes against.
      c: changed in place.

    Raises:
      CheckpointError: another optimizer than the releases', another number of parameters, or a
        buffer that does not fit its parameter.
    """
    try:
        return _read(saved, [row for row in rows if row.parameter], params, c)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"its optimizer state is not the official code's: {error!r}"
        ) from error


def _read(
    saved: Any, parameters: list[Row], params: dict[str, np.ndarray], c: ConfigDict
) -> dict[str, np.ndarray]:
    (group,) = saved["param_groups"]
    if not all(isinstance(key, int) for key in group["params"]):
        raise TypeError("its parameters have no numbers")
    # Before PyTorch 1.5 a parameter's key was its address: only the order counts.
    states = [dict(saved["state"].get(key, {})) for key in group["params"]]
    if len(states) != len(parameters):
        raise CheckpointError(
            f"its optimizer has {len(states)} parameters, and its networks {len(parameters)}"
        )
    name = _name(states, group)
    _settings(c, name, group)
    leaves: dict[str, np.ndarray] = {}
    for row, state in zip(parameters, states):
        for theirs, ours in BUFFERS[name].items():
            if state.get(theirs) is not None:
                leaf = ours_of(row, {row.theirs[0]: state[theirs].numpy()})
                if not row.ours.startswith("params/") or leaf.shape != params[row.ours].shape:
                    raise CheckpointError(
                        f"its optimizer's {theirs} {list(leaf.shape)} does not fit {row.theirs[0]}"
                    )
                leaves[_leaf(ours, row)] = leaf
    if not leaves:
        return {}
    if name == "adamw":
        (count,) = {_number(state["step"]) for state in states if "step" in state}
        leaves["optimizer/count"] = np.asarray(count, np.int32)
    _freeze_those_without_state(c, parameters, leaves)
    return leaves


def write(contents: Contents, rows: list[Row]) -> dict[str, Any] | None:
    """The optimizer state as PyTorch's `state_dict()`; None where there is none to write.

    Args:
      contents: with the moments.
      rows: the parameters, in PyTorch's order.
    """
    o = contents.config.optim
    if not contents.holds("optimizer/"):
        return None
    if o.name not in BUFFERS:
        log.warning("The state of optimizer %r is left out: PyTorch's files have none.", o.name)
        return None
    parameters = [row for row in rows if row.parameter]
    state: dict[int, dict[str, Any]] = {}
    for number, row in enumerate(parameters):
        buffers = {
            theirs: theirs_of(row, contents.leaves[_leaf(ours, row)])[row.theirs[0]]
            for theirs, ours in BUFFERS[o.name].items()
            if _leaf(ours, row) in contents.leaves
        }
        if buffers and o.name == "adamw":
            # A plain number is what old versions have and new ones turn into a tensor.
            buffers = {"step": int(contents.leaves["optimizer/count"]), **buffers}
        if buffers:
            state[number] = buffers
    rate = o.base_lr * contents.config.data.batch_size / 256
    group = {
        "lr": float(contents.extra.get("lr", rate)),  # the code sets it anew in each epoch or step
        "weight_decay": float(o.weight_decay),
    }
    if o.name == "sgd":
        group |= {"momentum": float(o.momentum), "dampening": 0.0, "nesterov": False}
    if o.name == "lars":
        group |= {
            "momentum": float(o.momentum), "trust_coefficient": float(o.trust_coefficient),
        }  # fmt: skip
    if o.name == "adamw":
        group |= {"betas": (float(o.b1), float(o.b2)), "eps": float(o.eps), "amsgrad": False}
    return {"state": state, "param_groups": [group | {"params": list(range(len(parameters)))}]}


def _leaf(buffer: str, row: Row) -> str:
    """'params/backbone/conv1/kernel' to 'optimizer/trace/backbone/conv1/kernel'."""
    return f"optimizer/{buffer}/{row.ours.removeprefix('params/')}"


def _name(states: list[dict], group: dict) -> str:
    for state in states:
        for name, buffers in BUFFERS.items():
            if buffers.keys() <= state.keys():
                return name
    if "betas" in group:
        return "adamw"
    return "lars" if "trust_coefficient" in group else "sgd"


def _settings(c: ConfigDict, name: str, group: dict) -> None:
    known = {"momentum": "momentum", "eps": "eps", "trust_coefficient": "trust_coefficient"}
    c.optim.name, c.optim.exclude_1d = name, name == "lars"
    for theirs, ours in (known | {"weight_decay": "weight_decay"}).items():
        if isinstance(group.get(theirs), int | float):
            c.optim[ours] = float(group[theirs])
    if name == "adamw":
        c.optim.b1, c.optim.b2 = map(float, group.get("betas", (c.optim.b1, c.optim.b2)))


def _number(value: Any) -> int:
    return int(value.numpy()) if isinstance(value, Tensor) else int(value)


def _freeze_those_without_state(
    c: ConfigDict, parameters: list[Row], leaves: dict[str, np.ndarray]
) -> None:
    buffer = next(iter(BUFFERS[c.optim.name].values()))
    without = [
        row.ours.removeprefix("params/")
        for row in parameters
        if row.ours.startswith("params/") and _leaf(buffer, row) not in leaves
    ]
    stem = {"backbone/patch_embed/kernel", "backbone/patch_embed/bias"}
    c.optim.freeze = (
        ("backbone/patch_embed",)
        if set(without) == stem
        else tuple(f"^{path}$" for path in without)
    )
