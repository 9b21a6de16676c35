"""Every option has a range, and what lies outside is refused when a run is built."""

import logging
import math
import re

import pytest

from moco_jax import config, options
from moco_jax.data.augment import OPERATIONS
from moco_jax.errors import InputError
from moco_jax.training import experiment
from tests.tiny import tiny_config, write_npz

DEFAULTS = config.flat(config.default().to_dict())
FREE = (  # any text
    "init", "init_encoder", "compilation_cache", "data.source", "data.cache_dir", "log.wandb",
    "data.image_column", "data.label_column", "evals.source",
)  # fmt: skip
NUMBERS = [n for n, v in DEFAULTS.items() if isinstance(v, int | float) and type(v) is not bool]
FLAGS = [n for n, v in DEFAULTS.items() if type(v) is bool]
LISTS = [n for n, v in DEFAULTS.items() if isinstance(v, tuple)]
NAMES = [n for n, v in DEFAULTS.items() if isinstance(v, str) and n not in FREE]


def changed(name, value):
    """The defaults with another value, which the dict's own types would not let in."""
    c = config.default()
    *groups, last = name.split(".")
    record = c
    for group in groups:
        record = record[group]
    with record.ignore_type():
        record[last] = value
    return c


def refused(name, value):
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        experiment.build(changed(name, value))
    assert "expected" in str(caught.value) or "is not one of" in str(caught.value)


def test_every_option_has_a_range_and_every_range_an_option():
    assert DEFAULTS.keys() == options.RANGES.keys()
    assert {*NUMBERS, *FLAGS, *LISTS, *NAMES, *FREE} == DEFAULTS.keys()
    options.check(config.default())


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    """None may be negative, whatever it counts."""
    for value in (math.nan, math.inf, -math.inf, -1, -1e-3, "1", None, (1,)):
        refused(name, value)
    if isinstance(DEFAULTS[name], int):
        refused(name, 1.5)
        refused(name, True)


@pytest.mark.parametrize("name", LISTS)
def test_lists(name):
    for value in ((math.nan,) * 4, (math.inf,) * 2, (-1.0,) * 4, ("(",), (True,), 3, None, "flip"):
        refused(name, value)


@pytest.mark.parametrize("name", [*NAMES, *FREE, *FLAGS])
def test_names_and_flags(name):
    for value in (3, None, ("x",), "no such name"):
        if not (name in FREE and isinstance(value, str)):
            refused(name, value)


ZERO = [
    "epochs", "accumulate", "data.batch_size", "data.eval_batch_size", "data.image_size",
    "data.label_share", "data.eval_crop_share", "data.prefetch", "data.max_pixels", "mesh.fsdp",
    "method.temperature", "method.projector.out", "model.resnet.width",
    "model.vit.patch", "model.vit.norm_eps", "optim.base_lr", "optim.eps", "optim.layer_decay",
    "optim.trust_coefficient",
    "knn.temperature", "log.every_steps", "log.max_nonfinite", "checkpoint.keep_last",
    "supervised.held_out", "data.view1.randaugment_layers",
]  # fmt: skip
ONE = ["optim.momentum", "optim.b1", "optim.b2", "model.vit.drop_path", "supervised.held_out"]
SHARES = [
    "method.ema", "data.max_bad_share", "data.label_share", "supervised.label_smoothing",
    "supervised.mix_p", "supervised.cutmix_p", "optim.layer_decay", "data.eval_crop_share",
    *(f"data.view{n}.{op}_p" for n in (1, 2) for op in OPERATIONS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [*((n, 0) for n in ZERO), *((n, 1.0) for n in ONE), *((n, 1.01) for n in SHARES),
     ("seed", 2**32), ("data.view1.crop_area", (0.5, 0.2)), ("data.view1.crop_area", (0.2, 1.1)),
     ("data.view1.jitter", (0.4, 0.4, 0.4, 0.6)), ("data.view1.jitter", (0.4, 0.4, 0.4)),
     ("data.view1.order", ("flip", "flip")), ("data.view2.randaugment_magnitude", 10.5),
     ("supervised.lrs", (1.0, 0.0)), ("knn.ks", (10, 0)), ("data.std", (0.2, 0.0)),
     ("optim.freeze", ("conv(1",)), ("profile", "3"), ("profile", "3:3"), ("profile", "-1:3")],
)  # fmt: skip
def test_ends_of_ranges(name, value):
    refused(name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.name", "adam", "optim.name='adam' .* did you mean 'adamw'"),
        ("optim.schedule", "cosin", "did you mean 'cosine'"),
        ("data.view2.order", ("flip", "jiter"), "order='jiter' .* did you mean 'jitter'"),
        ("optim.momentum", 1.0, "momentum=1.0: expected 0 or more and below 1"),
        ("optim.layer_decay", 0.0, "layer_decay=0.0: expected above 0 and at most 1"),
        ("supervised.cutmix", -1.0, "cutmix=-1.0: expected 0 or more"),
        ("seed", -1, "seed=-1: expected a whole number, at least 0 and at most 4294967295"),
        ("epochs", math.inf, "epochs=inf: expected above 0 and finite"),
        ("supervised.label_smoothing", 1.5, r"=1.5: expected a value in \[0, 1\]"),
        ("supervised.lrs", (0.0,), r"lrs=\(0.0,\): expected values, each above 0 and finite"),
        ("optim.freeze", ("conv(1",), "expected values, each a regular expression"),
    ],
)  # fmt: skip
def test_the_message_names_the_range(name, value, message):
    with pytest.raises(InputError, match=message):
        options.check(changed(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**32 - 1), ("method.ema", 0), ("method.ema", 1.0), ("optim.step_epochs", [60, 80]),
     ("model.vit.drop_path", 0.0), ("data.label_share", 1), ("optim.weight_decay", 0)],
)  # fmt: skip
def test_what_lies_at_the_end_of_a_range_is_accepted(name, value):
    options.check(changed(name, value))


def test_a_config_with_options_of_its_own_or_one_too_few(caplog):
    c = config.default().unlock()
    c.optim.more = 1
    with caplog.at_level(logging.INFO):
        options.check(c)
    assert "Options that are not the package's, not checked: optim.more" in caplog.text
    del c.optim.more, c.optim.momentum
    with pytest.raises(InputError, match=r"optim.momentum is missing; a config starts from"):
        options.check(c)


def test_options_that_the_data_or_other_options_bound(tmp_path):
    source = write_npz(tmp_path / "images.npz")
    for change, message in (
        ({"knn.k": 80}, "knn.k=80: expected at most the 79 images of the bank"),
        ({"knn.k": 30, "knn.max_train": 30}, "knn.k=30: expected at most the 29 images"),
        ({"method.queue_size": 15}, "queue_size=15: expected at least the 16 keys"),
        ({"method.queue_size": 31, "method.symmetric": True}, "at least the 32 keys"),
    ):
        c = tiny_config("v1", source)
        c.update_from_flattened_dict(change)
        with pytest.raises(InputError, match=message):
            experiment.build(c)
