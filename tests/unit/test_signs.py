"""Signs of trouble in made curves: what is one, what is none, and that each is told once."""

import math

import numpy as np
import pytest

from moco_jax import config, signs
from moco_jax.report import curves, page, rundir
from moco_jax.training import health
from tests import runs


def rows(column, values, every=10):
    return [{"step": every * i, column: value} for i, value in enumerate(values)]


def steps(found, name):
    return [row["step"] for row in found.get(name, ())]


NOISE = np.random.default_rng(0).lognormal(0, 0.3, 60)
CURVES = {
    "a spike": (("grad_norm_first", [1.0] * 20 + [6.0] + [1.0] * 9), "spike", [200]),
    "its largest step counts": (
        ("grad_norm_first_max", [1.0] * 15 + [6.0] * 3 + [1.0] * 5 + [7.0]), "spike", [150, 230],
    ),
    "no spike: noise": (("grad_norm_first", NOISE), "spike", []),
    "no spike: the decay of early training": (
        ("grad_norm_first", [50 * 0.6**i + 0.1 for i in range(40)]), "spike", [],
    ),
    "no spike: a warm-up": (("grad_norm_first", 0.01 * 1.2 ** np.arange(40)), "spike", []),
    "no spike: before there is a measure": (
        ("grad_norm_first", [1.0] * 5 + [90.0] + [1.0] * 20), "spike", [],
    ),
    "a spike among values that are none": (
        ("grad_norm_first", [None] + [1.0] * 6 + [math.nan, None] + [1.0] * 6 + [9.0]), "spike",
        [150],
    ),
    "a dip": (("knn_top1", [0.3, 0.7, 0.71, 0.72, 0.69, 0.68, 0.74]), "dip", [40]),
    "two dips": (("knn_top1", [0.3, 0.7, 0.7, 0.7, 0.6, 0.71, 0.65, 0.75]), "dip", [40, 60]),
    "no dip: below the untrained network": (("knn_top1", [0.9, 0.5, 0.6, 0.7, 0.71]), "dip", []),
    "no dip: noise": (("knn_top1", [0.3, 0.70, 0.69, 0.705, 0.695]), "dip", []),
    "no dip: early": (("knn_top1", [0.3, 0.7, 0.6, 0.5, 0.69]), "dip", []),
    "collapse": (("feature_std", [1.0, 0.5, 1e-4, 1e-7, 1e-7]), "collapse", [20]),
    "no collapse": (("feature_std", [1.0, 0.5, 2e-3, math.nan, None]), "collapse", []),
    "a rank that falls": (("rank_me", [50.0, 20.0, 30.0, 29.0, 14.0, 2.0]), "fall", [40]),
    "no fall: below the untrained network": (("rank_me", [50.0, 20, 30, 26, 24]), "fall", []),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_a_sign_is_found_where_it_is_and_nowhere_else(name):
    (column, values), sign, at = CURVES[name]
    found = signs.find(rows(column, values))
    assert steps(found, sign) == at
    assert not found.keys() - {sign}


def watched(made, cut, caution="", **options):
    """What a monitor adds to rows, made anew from what is written after `cut` of them."""
    c = config.default()
    c.update_from_flattened_dict(options)
    monitor, written = health.Monitor(c, caution), []
    for i, row in enumerate(made):
        if i == cut:
            monitor = health.Monitor(c, caution, written)
        written.append(row | monitor(row))
    return written


@pytest.mark.parametrize("cut", [None, 5, 20, 21, 22, 30])
def test_a_run_that_goes_on_is_told_nothing_twice(cut, caplog):
    made = rows("grad_norm_first", [1.0] * 20 + [6.0, 7.0] + [1.0] * 9 + [8.0])
    written = watched(made, cut, caution="the queue is large")
    assert [(row["step"], row["signs"]) for row in written if "signs" in row] == [
        (0, ["caution"]), (200, ["spike"]), (310, ["spike"]),
    ]  # fmt: skip
    assert caplog.text.count("the queue is large") == 1
    assert caplog.text.count("SPIKE") == 1
    assert "6 at step 200, is more than 5 times the median of the 11 rows" in caplog.text
    assert health.recount(written)[1].endswith("first layer's gradient, 2 x, first at step 200")


@pytest.mark.parametrize(
    ("column", "values", "options", "told", "not_told"),
    [
        (
            "knn_top1", [0, 0.7, 0.7, 0.7, 0.6], {"model.name": "vit_small"},
            "backbone/patch_embed", "v1",
        ),
        (
            "knn_top1", [0, 0.7, 0.7, 0.7, 0.6],
            {"model.name": "vit_small", "optim.freeze": ("backbone/patch_embed",)},
            "lower learning rate", "patch",
        ),
        ("knn_top1", [0, 0.7, 0.7, 0.7, 0.6], {}, "DIP: kNN top-1 is 60.0% at step 40", "patch"),
        ("feature_std", [1, 0.5, 1e-4], {"method.ema": 0.0}, "method.ema=0, where 0.99", "patch"),
        ("feature_std", [1, 0.5, 1e-4], {}, "COLLAPSE: the features", "method.ema"),
        ("rank_me", [9, 30.0, 30.0, 30.0, 8.0], {}, "RankMe is 8.0 at step 40", "method.ema"),
    ],
)  # fmt: skip
def test_the_advice_is_what_the_run_does_not_have(
    column, values, options, told, not_told, caplog
):  # fmt: skip
    watched(rows(column, values), None, **options)
    assert told in caplog.text
    assert not_told not in caplog.text


def test_the_report_marks_them(tmp_path):
    made = runs.rows(30)
    made[0]["signs"] = ["caution"]
    for row, value in ((made[20], 0.45), (made[25], 0.4)):
        row["knn_top1"] = value
    made[22]["grad_norm_first"] = 50.0
    run = rundir.read_all([runs.write_run(tmp_path / "run", made, **{"seed": 3})])[0]
    marks = {}
    for group in curves.groups([run]):
        for trace in curves.figure(group, [run])["data"]:
            if trace["marker"].get("symbol") == "triangle-down":
                marks[group.title] = (trace["name"], trace["x"], trace["y"])
    assert marks == {
        "kNN accuracy": ("dip of kNN", [200, 250], [0.45, 0.4]),
        "Gradient norm": ("spike of the first layer's gradient", [220], [50.0]),
    }
    text = page.render([run])
    assert "Queue above the data" in text
    assert "first at step 200" in text
