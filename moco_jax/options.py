"""What each option may be: one table, checked once, before anything is built.

The defaults stand in `moco_jax.config`. What depends on several options, on the data or on the
devices is checked where it is used.
"""

import logging
import math
import numbers
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from moco_jax.config import (
    BACKENDS,
    DETECTORS,
    DTYPES,
    EXTENSIONS,
    FEATURES,
    INIT_PARTS,
    OPTIMIZERS,
    PROTOCOLS,
    SCHEDULES,
    ConfigDict,
    choose,
    flat,
)
from moco_jax.data.augment import OPERATIONS
from moco_jax.errors import InputError
from moco_jax.evals import EVALUATIONS
from moco_jax.methods import METHODS
from moco_jax.methods.memory_bank import LOSSES
from moco_jax.models import BACKBONES, attention, remat, resnet, vit
from moco_jax.ops.ema import EMA_SCHEDULES

log = logging.getLogger(__name__)


class Range(NamedTuple):
    """The values that an option may have.

    Attributes:
      accepts: whether a value is one of them.
      text: what was expected.
      known: the names that can be chosen, where these are all; a registry may grow.
    """

    accepts: Callable[[Any], bool]
    text: str
    known: Collection[str] = ()

    def check(self, name: str, value: Any) -> None:
        """Raises InputError, with the valid range or the nearest name, unless it is accepted.

        Args:
          name: of the option.
          value: of it.
        """
        if self.accepts(value):
            return
        for item in value if _listed(value) else [value]:
            if self.known:
                choose(name, item, self.known)
        raise InputError(f"{name}={value!r}: expected {self.text}")


def at_least(low: float, below: float = math.inf) -> Range:
    """Numbers from `low` on, and below another."""
    text = f"{low:g} or more and " + ("finite" if below == math.inf else f"below {below:g}")
    return Range(lambda x: _finite(x) and low <= x < below, text)


def above(low: float, most: float = math.inf, below: float = math.inf) -> Range:
    """Numbers above `low`; at most `most`, or below `below`."""
    end = "finite" if most == math.inf else f"at most {most:g}"
    text = f"above {low:g} and " + (end if below == math.inf else f"below {below:g}")
    return Range(lambda x: _finite(x) and low < x <= most and x < below, text)


def between(low: float, high: float) -> Range:
    """Numbers from `low` to `high`."""
    return Range(lambda x: _finite(x) and low <= x <= high, f"a value in [{low:g}, {high:g}]")


def whole(low: int, high: int | None = None) -> Range:
    """Whole numbers from `low` on, or to `high`."""
    text = f"a whole number, at least {low}" + ("" if high is None else f" and at most {high}")
    return Range(
        lambda x: _is(x, numbers.Integral) and low <= x and (high is None or x <= high), text
    )


def one_of(names: Collection[str]) -> Range:
    """One of some names, or of a registry's."""
    return Range(lambda x: isinstance(x, str) and x in names, "one of the known names", names)


def some_of(names: Collection[str]) -> Range:
    """Some of the names, each at most once, in any order."""
    return Range(
        lambda x: _listed(x) and set(x) <= set(names) and len(set(x)) == len(x),
        "known names, each once",
        names,
    )


def each(item: Range) -> Range:
    """Any number of values, each in a range."""
    return Range(lambda x: _listed(x) and all(map(item.accepts, x)), f"values, each {item.text}")


def some(item: Range) -> Range:
    """One value or more, each in a range."""
    every = each(item)
    return Range(lambda x: every.accepts(x) and len(x) > 0, f"one or more {every.text}")


def row(*items: Range) -> Range:
    """As many values as ranges, each in its own."""
    text = f"({', '.join(item.text for item in items)})"
    return Range(
        lambda x: (
            _listed(x) and len(x) == len(items) and all(r.accepts(y) for r, y in zip(items, x))
        ),
        text,
    )


def interval(most: float = math.inf) -> Range:
    """Two numbers, the ends of a range of positive ones."""
    return Range(
        lambda x: _listed(x) and len(x) == 2 and all(map(_finite, x)) and 0 < x[0] <= x[1] <= most,
        f"(low, high) with 0 < low <= high <= {most}",
    )


def _is(x: Any, kind: type) -> bool:
    return isinstance(x, kind) and not isinstance(x, bool)


def _finite(x: Any) -> bool:
    return _is(x, numbers.Real) and math.isfinite(x)


def _listed(x: Any) -> bool:
    return isinstance(x, tuple | list)


def _is_pattern(x: Any) -> bool:
    try:
        return isinstance(x, str) and bool(re.compile(x))
    except re.error:
        return False


def _is_span(x: str) -> bool:
    found = re.fullmatch(r"(\d+):(\d+)", x)
    return not x or (found is not None and int(found[1]) < int(found[2]))


FLAG = Range(lambda x: isinstance(x, bool), "True or False")
TEXT = Range(lambda x: isinstance(x, str), "text")
SHARE = between(0, 1)
COUNT = whole(0)
SIZE = whole(1)
SPAN = Range(lambda x: isinstance(x, str) and _is_span(x), "'' or START:STOP, as '10:20'")
PATTERNS = each(Range(_is_pattern, "a regular expression"))

_VIEW = {
    "size": COUNT, "crop_area": interval(1.0), "crop_ratio": interval(),
    "order": some_of(OPERATIONS), "blur_at": COUNT,
    "jitter": row(at_least(0), at_least(0), at_least(0), between(0, 0.5)), "jitter_p": SHARE,
    "grayscale_p": SHARE, "blur_p": SHARE, "blur_sigma": interval(), "solarize_p": SHARE,
    "solarize_threshold": SHARE, "flip_p": SHARE, "erase_p": SHARE, "erase_area": interval(1.0),
    "erase_ratio": interval(), "randaugment_layers": SIZE, "randaugment_p": SHARE,
    "randaugment_magnitude": between(0, 10), "randaugment_std": at_least(0),
}  # fmt: skip
_MLP = {"layers": COUNT, "hidden": COUNT, "out": SIZE, "bias": FLAG, "bn": FLAG, "last_bn": FLAG}
_GROUPS = {
    "": {
        "seed": whole(0, 2**32 - 1), "epochs": above(0), "extended_from": each(above(0)),
        "extension": one_of(EXTENSIONS), "protocol": one_of(PROTOCOLS),
        "init": TEXT, "init_encoder": TEXT, "init_partial": FLAG, "init_recipe": FLAG,
        "init_part": one_of(INIT_PARTS), "compilation_cache": TEXT, "profile": SPAN,
        "backend": one_of(BACKENDS), "accumulate": SIZE,
    },
    "data": {
        "source": TEXT, "label_share": above(0, most=1), "test_share": at_least(0, below=1),
        "test_seed": whole(0, 2**32 - 1), "batch_size": SIZE, "image_size": SIZE,
        "mean": each(SHARE), "std": each(above(0)), "eval_crop_share": above(0, most=1),
        "eval_batch_size": SIZE, "threads": COUNT, "processes": COUNT, "prefetch": SIZE,
        "max_bad_share": SHARE, "max_pixels": SIZE, "array_gb": at_least(0),
        "resident_gb": at_least(0), "cache_dir": TEXT,
        "image_column": TEXT, "label_column": TEXT, "levels": whole(0, 65535),
        "read_seconds": at_least(0),
    },
    "data.view1": _VIEW,
    "data.view2": _VIEW,
    "data.small_view": _VIEW,
    "model": {
        "name": one_of(BACKBONES), "dtype": one_of(DTYPES), "remat": one_of(remat.POLICIES),
    },
    "model.resnet": {
        "width": above(0), "stem": one_of(resnet.STEMS), "zero_init_residual": FLAG,
    },
    "model.vit": {
        "patch": SIZE, "stem": one_of(vit.STEMS), "position": one_of(vit.POSITIONS),
        "pool": one_of(vit.POOLS), "norm": one_of(vit.NORMS), "norm_eps": above(0),
        "width": COUNT, "depth": COUNT, "heads": COUNT,
        "attention": one_of(attention.ATTENTIONS), "scan": FLAG,
        "drop_path": at_least(0, below=1),
    },
    "method": {
        "name": one_of(METHODS), "temperature": above(0), "ema": SHARE,
        "ema_schedule": one_of(EMA_SCHEDULES), "queue_size": COUNT, "symmetric": FLAG,
        "bn_group_size": COUNT, "shuffle_bn": FLAG, "bank_loss": one_of(LOSSES),
    },
    "method.projector": _MLP,
    "method.predictor": _MLP,
    "method.swav": {
        "prototypes": whole(2), "epsilon": above(0), "frozen_epochs": at_least(0),
        "small_views": COUNT, "queue_from_epoch": at_least(0),
    },
    "mesh": {"fsdp": SIZE, "shard_queue": FLAG},
    "supervised": {
        "train_backbone": FLAG, "augment": FLAG, "lrs": each(above(0)), "batch_norm": FLAG,
        "held_out": above(0, below=1), "label_smoothing": SHARE, "mixup": at_least(0),
        "cutmix": at_least(0), "mix_p": SHARE, "cutmix_p": SHARE, "every_epochs": at_least(0),
    },
    "detection": {
        "network": one_of(DETECTORS), "masks": FLAG, "keypoints": FLAG, "channels": SIZE,
        "features": SIZE, "canvas": row(SIZE, SIZE), "more_canvases": each(row(SIZE, SIZE)),
        "sides": some(SIZE), "test_side": SIZE, "longest": SIZE, "mirrored": SHARE, "boxes": SIZE,
        "samples": whole(4), "proposals": row(SIZE, SIZE), "test_proposals": row(SIZE, SIZE),
        "precise_batches": COUNT, "eleven_points": FLAG, "spreads": each(above(0)),
        "every_epochs": at_least(0),
    },
    "segmentation": {
        "channels": SIZE, "crop": row(SIZE, SIZE), "scales": row(above(0), above(0)),
        "mirrored": SHARE, "canvas": row(SIZE, SIZE), "every_epochs": at_least(0),
    },
    "optim": {
        "name": one_of(OPTIMIZERS), "base_lr": above(0), "schedule": one_of(SCHEDULES),
        "warmup_epochs": at_least(0), "step_epochs": each(above(0)), "step_factor": at_least(0),
        "weight_decay": at_least(0), "momentum": at_least(0, below=1),
        "b1": at_least(0, below=1), "b2": at_least(0, below=1), "eps": above(0),
        "trust_coefficient": above(0), "exclude_1d": FLAG, "exclude": PATTERNS,
        "layer_decay": above(0, most=1), "clip_norm": at_least(0), "freeze": PATTERNS,
    },
    "evals": {
        "names": some_of(EVALUATIONS), "source": TEXT, "every_epochs": at_least(0), "images": SIZE,
    },
    "knn": {
        "every_epochs": at_least(0), "k": COUNT, "temperature": above(0), "ks": each(SIZE),
        "temperatures": each(above(0)), "features": one_of(FEATURES), "max_train": COUNT,
        "max_test": COUNT, "watch_train": COUNT, "watch_test": COUNT,
    },
    "log": {"every_steps": SIZE, "tensorboard": FLAG, "wandb": TEXT, "max_nonfinite": SIZE},
    "checkpoint": {
        "every_steps": COUNT, "keep_last": SIZE, "keep_every_steps": COUNT, "allow_changes": FLAG,
    },
}  # fmt: skip

RANGES = {
    f"{group}.{name}".lstrip("."): valid
    for group, members in _GROUPS.items()
    for name, valid in members.items()
}


def check(config: ConfigDict) -> None:
    """Refuses the first option whose value cannot be meant.

    Raises:
      InputError: it names the option, its value and the valid ones; or one is missing.
    """
    values = flat(config.to_dict())
    if own := sorted(values.keys() - RANGES.keys()):
        log.info("Options that are not the package's, not checked: %s", ", ".join(own))
    for name in sorted(RANGES.keys() - values.keys()):
        raise InputError(f"{name} is missing; a config starts from moco_jax.config.default()")
    for name, valid in RANGES.items():
        valid.check(name, values[name])
