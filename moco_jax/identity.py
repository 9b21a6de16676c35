"""What makes a run that run: a checkpoint made under other values is not continued unasked."""

import difflib
import logging
from typing import Any

from moco_jax.config import as_json, default, flat
from moco_jax.errors import CheckpointError

log = logging.getLogger(__name__)

# What decides the numbers of a run ...
IDENTITY = (
    "seed", "epochs", "extended_from", "extension", "protocol", "model", "method", "optim", "data",
    "found",
)  # fmt: skip
# ... and of training with labels, which is about the network that it starts from.
_START = ("init", "init_encoder", "init_partial", "init_part")
OWN_IDENTITY = {name: (*_START, name) for name in ("supervised", "detection", "segmentation")}
# ... except these, which change speed or safety and never the samples.
NOT_IDENTITY = (
    "data.threads",
    "data.processes",
    "data.prefetch",
    "data.max_bad_share",
    "data.read_seconds",
    "data.eval_batch_size",
    "data.resident_gb",
    "data.cache_dir",
    "model.remat",
    "model.vit.attention",
    "model.vit.scan",
    "found.head",
    "found.classes",
    "detection.every_epochs",
    "segmentation.every_epochs",
    "segmentation.canvas",
)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config in today's terms: probes and fine-tuning were once named as methods."""
    if config.get("method", {}).get("name") == "supervised":
        method = config["method"] | {"name": default().method.name}
        return config | {"protocol": "supervised", "method": method}
    return {"protocol": "pretraining"} | config


def identity(config: dict[str, Any]) -> list[str]:
    """The lines of a config, `name = value`, that decide a run's numbers.

    An option that is younger than the config counts with its default, which is what went before.
    """
    config = upgraded(config)
    own = OWN_IDENTITY.get(config["protocol"], ())
    names = IDENTITY + own
    options = flat(as_json(default())) | flat(config)
    without = (*NOT_IDENTITY, "method.name") if own else NOT_IDENTITY
    return [
        f"{name} = {value!r}"
        for name, value in sorted(options.items())
        if name.partition(".")[0] in names and name not in without
    ]


def refuse_changes(
    saved: dict[str, Any] | None, current: dict[str, Any], allow: bool = False
) -> None:
    """Refuses to go on with a saved run under another config.

    Both are configs as JSON, with what was found when the run was built under 'found': what `auto`
    became, and which images there are (see `data.fingerprint`). What only one of them has, a
    checkpoint of before, does not count.

    Raises:
      CheckpointError: they differ; with the lines that do.
    """
    if saved is None:
        return
    saved, current = _comparable(upgraded(saved), upgraded(current))
    changes = difflib.unified_diff(
        identity(saved), identity(current), "checkpoint", "this run", n=0, lineterm=""
    )
    lines = [line for line in changes if not line.startswith("@@")]
    if not lines:
        return
    text = "The checkpoint in this workdir was made under another config:\n" + "\n".join(lines)
    if not allow:
        raise CheckpointError(
            f"{text}\nUse another workdir, or --config.checkpoint.allow_changes=True to go on."
            f"{_how_to_extend(saved, current)}"
        )
    log.warning("%s", text)


def _comparable(saved: dict, current: dict) -> tuple[dict, dict]:
    """Both configs, with what was found in place of what was asked for, and extension applied."""
    found = [config.get("found", {}) for config in (saved, current)]
    shared = [{key: part[key] for key in found[0].keys() & found[1].keys()} for part in found]
    both = [config | {"found": part} for config, part in zip((saved, current), shared)]
    if all("dtype" in part for part in shared):
        both = [c | {"model": c["model"] | {"dtype": c["found"]["dtype"]}} for c in both]
    if all("images" in part for part in shared):
        sources = [config["data"]["source"] for config in both]
        same = shared[0]["images"] == shared[1]["images"]
        if same and sources[0] != sources[1]:
            log.info("The images are those of %s: number, names and labels agree", sources[0])
        if same:
            both = [c | {"data": c["data"] | {"source": sources[1]}} for c in both]
    return _extended(both[0], both[1]), both[1]


def _extended(saved: dict, current: dict) -> dict:
    """The saved config made longer, where that is what the current one asks for."""
    was = list(saved.get("extended_from", ()))
    longer = current.get("epochs", 0) > saved.get("epochs", 0)
    if not longer or list(current.get("extended_from", ())) != [*was, saved["epochs"]]:
        return saved
    names = ("epochs", "extended_from") + ("extension",) * (not was)
    return saved | {name: current[name] for name in names}


def _how_to_extend(saved: dict, current: dict) -> str:
    """What to say where the epochs have grown, and it is not said how that is meant."""
    if not current.get("epochs", 0) > saved.get("epochs", 0):
        return ""
    ends = [*saved.get("extended_from", ()), saved["epochs"]]
    text = "".join(f"{end:g}," for end in ends)
    return (
        f"\nFor more epochs of the same run: --config.extended_from='({text})' and "
        f"--config.extension=stretch, restart or hold."
    )
