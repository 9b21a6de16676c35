"""The figures of a report: intervals, the matrix of kNN, chance, tables of several runs."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from moco_jax import config
from moco_jax.report import (
    applies,
    curves,
    derived,
    header,
    noise,
    ranking,
    rundir,
    steady,
    votes,
)
from moco_jax.report.rundir import Run
from tests import runs


def make_run(rows=(), results=(), name="run", **overrides):
    c = config.default()
    c.update_from_flattened_dict(overrides)
    return Run(name, config.as_json(c), list(rows), list(results), {}, {})


def record(encoder, k, t, top1, n=2000, bank=10_000, split="test"):
    return {
        "evaluation": "knn", "protocol": "", "seed": 0, "split": split, "examples": n,
        "settings": {"encoder": encoder, "bank": bank, "k": k, "temperature": t},
        "metrics": {"top1": top1},
    }  # fmt: skip


class TestNoise:
    @pytest.mark.parametrize(
        ("right", "n"), [(0, 10), (1, 1), (1632, 2000), (37, 50), (9999, 10_000)]
    )
    def test_wilson_is_scipys(self, right, n):
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(noise.wilson(right / n, n), expected, atol=1e-7)

    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [  # the examples of Newcombe's table II, method 10
            ((56, 70), (48, 80), (0.0524, 0.3339)),
            ((9, 10), (3, 10), (0.1705, 0.8090)),
            ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ],
    )
    def test_difference_is_newcombes(self, a, b, expected):
        found = noise.difference(a[0] / a[1], a[1], b[0] / b[1], b[1])
        np.testing.assert_allclose(found, expected, atol=5e-5)

    def test_what_readers_have_asked(self):
        assert noise.within(0.816, 2000, 0.812, 2000)
        assert not noise.within(0.803, 2000, 0.736, 2000)


class TestVotes:
    def test_a_matrix_with_its_floors(self):
        pairs = [(k, t) for k in (200, 20) for t in (0.07, 0.2)]
        records = [record("raw pixels", *p, 0.812 if p[0] == 20 else 0.736) for p in pairs]
        records += [record("untrained", *p, 0.275) for p in pairs]
        records += [record("step 9", *p, 0.816 if p[0] == 20 else 0.803) for p in pairs]
        (found,) = votes.matrices(records)
        assert (found.encoder, found.examples) == ("step 9", 2000)
        assert (found.ks, found.columns) == ((20, 200), ((0.07, 0.2),))
        assert found.cells.keys() == set(pairs)
        cell = found.cells[20, 0.07]
        assert cell.floors == (("raw pixels", 0.812, True), ("untrained", 0.275, False))
        assert cell.interval == noise.wilson(0.816, 2000)
        assert [f.within_noise for f in found.cells[200, 0.07].floors] == [False, False]

    def test_floors_are_of_the_same_vote_and_images(self):
        records = [
            record("raw pixels", 20, 0.07, 0.5, bank=50_000), record("raw pixels", 20, 0.07, 0.4),
            record("raw pixels", 200, 0.07, 0.3),
            record("raw pixels", 20, 0.07, 0.2, split="other"),
            record("step 9", 20, 0.07, 0.9, bank=1_281_167),
        ]  # fmt: skip
        (found,) = votes.matrices(records)
        assert [f.top1 for f in found.cells[20, 0.07].floors] == [0.5], "the nearest bank"
        assert "floors: of 50,000" in found.about

    def test_encoders_are_apart_newest_first_and_columns_few(self):
        temperatures = (0.5, 0.1, 0.2, 0.3)
        records = [record(e, 5, t, 0.5) for e in ("step 1", "step 2") for t in temperatures]
        found = votes.matrices([*records, {"evaluation": "linear"}])
        assert [m.encoder for m in found] == ["step 2", "step 1"]
        assert found[0].columns == ((0.1, 0.2, 0.3), (0.5,))
        assert votes.matrices([]) == []
        (only,) = votes.matrices([record("untrained", 5, 0.1, 0.3)])
        assert only.cells[5, 0.1].floors == ()


class TestDerived:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [("moco", 1 / 4097), ("memory_bank", 1 / 4097), ("moco_v3", 1 / 64), ("end_to_end", 1 / 64),
         ("simclr", 1 / 127), ("byol", 1 / 64), ("swav", 1 / 30), ("mine", None)],
    )  # fmt: skip
    def test_chance_of_the_contrast(self, name, expected):
        run = make_run([{"step": 1, "contrast_top1": 0.5}], **{
            "method.name": name, "method.queue_size": 4096, "data.batch_size": 64,
            "method.swav.prototypes": 30,
        })  # fmt: skip
        (row,) = derived.with_columns(run).rows
        assert row.get(derived.CONTRAST_CHANCE) == expected

    def test_loss_and_time(self):
        rows = [{"step": 0},
                {"step": 10, "loss": 2.0, "loss_chance": 5.0, "images_per_second": 2.0},
                {"step": 15}, {"step": 20, "loss": None, "loss_chance": 5.0},
                {"step": 30, "images_per_second": 4.0}]  # fmt: skip
        found = derived.with_columns(make_run(rows, **{"data.batch_size": 4})).rows
        assert [row.get(derived.LOSS_GAP) for row in found] == [None, -3.0, None, None, None]
        assert derived.LOSS_GAP in found[3], "a gap stays one"
        assert [row[derived.SECONDS] for row in found] == [0, 20, 25, 30, 40]


class TestSteady:
    def test_what_never_changes_is_a_sentence(self):
        rows = [{"step": s, "ema": 0.99, "loss": 5.0 - s, "input_wait": 0.0} for s in (1, 2)]
        run = make_run(rows)
        drawn, sentences = steady.parted(curves.groups([run]), [run])
        assert [group.title for group in drawn] == ["Loss"]
        assert sentences == ["EMA coefficient: 0.99", "Waiting for data: 0.0%"]

    def test_of_several_runs_it_says_which(self):
        many = [make_run([{"step": s, "ema": m} for s in (1, 2)], name=n)
                for n, m in (("a", 0.99), ("b", 0.9), ("c", 0.99))]  # fmt: skip
        assert steady.parted(curves.groups(many), many) == (
            [], ["EMA coefficient: 0.99 (a, c); 0.9 (b)"],
        )  # fmt: skip
        many.append(make_run([{"step": 1, "ema": 0.5}, {"step": 2, "ema": 0.6}]))
        assert [g.title for g in steady.parted(curves.groups(many), many)[0]] == ["EMA coefficient"]

    def test_a_gap_is_a_change(self):
        run = make_run([{"step": 1, "ema": 0.9}, {"step": 2, "ema": None}])
        assert len(steady.parted(curves.groups([run]), [run])[0]) == 1


class TestApplies:
    @pytest.mark.parametrize(
        ("name", "changes", "expected"),
        [
            ("model.vit.patch", {}, False),
            ("model.vit.patch", {"model.name": "vit_small"}, True),
            ("model.resnet.width", {}, True),
            ("method.queue_size", {"method.name": "simclr"}, False),
            ("method.ema", {"method.name": "moco_v3"}, True),
            ("method.ema", {"method.name": "simclr"}, False),
            ("method.symmetric", {"method.name": "moco_v3"}, False),
            ("method.temperature", {"protocol": "supervised"}, False),
            ("method.predictor.hidden", {"method.name": "byol"}, False),
            (
                "method.predictor.hidden",
                {"method.name": "byol", "method.predictor.layers": 2},
                True,
            ),
            ("supervised.mixup", {}, False),
            ("optim.b1", {}, False),
            ("optim.b1", {"optim.name": "adamw"}, True),
            ("optim.step_factor", {"optim.schedule": "step"}, True),
            ("data.view1.solarize_p", {}, False),
            ("data.view1.jitter_p", {}, True),
            ("data.threads", {}, False),
            ("log.every_steps", {}, False),
            ("knn.every_epochs", {}, False),
            ("seed", {}, True),
        ],
    )
    def test_an_option_of_a_run(self, name, changes, expected):
        flat = config.flat(make_run(**changes).config)
        assert name in flat
        assert applies.applies(name, flat) == expected

    def test_differences_among_those_it_applies_to(self):
        one = {"optim.base_lr": 0.1, "method.queue_size": 128, "log.every_steps": 3}
        two = {"optim.base_lr": 0.2, "method.queue_size": 256}
        three = {"optim.base_lr": 0.2, "method.name": "simclr", "method.queue_size": 512}
        found = applies.differences([make_run(**c).config for c in (one, two, three)])
        assert found == {
            "method.name": ["moco", "moco", "simclr"],
            "method.queue_size": [128, 256, None],
            "optim.base_lr": [0.1, 0.2, 0.2],
        }
        assert "method.queue_size" not in applies.differences(
            [make_run(**c).config for c in (one, three)]
        )
        assert applies.differences([make_run().config] * 2) == {}


class TestRanking:
    def runs(self):
        count = [{"evaluation": "knn", "examples": 2000}]
        return [
            derived.with_columns(make_run(rows, count, **{"optim.base_lr": rate}))
            for rate, rows in (
                (0.1, [{"step": 9, "knn_top1": 0.70, "loss": 2.0, "loss_chance": 5.0}]),
                (0.2, [{"step": 9, "loss": 1.0, "loss_chance": 5.0}]),
                (0.3, [{"step": 5, "knn_top1": 0.81}, {"step": 9, "epoch": 2.0, "knn_top1": 0.80}]),
                (0.4, [{"step": 9, "knn_top1": 0.79}]),
            )
        ]

    def test_best_first_with_noise_said(self):
        table = ranking.table(self.runs())
        assert [m.key for m in table.metrics] == ["knn_top1", derived.LOSS_GAP]
        assert [entry.number for entry in table.entries] == [2, 3, 0, 1]
        assert [entry.texts["knn_top1"] for entry in table.entries] == [
            "80.0%", "79.0% ≈", "70.0%", "–",
        ]  # fmt: skip
        assert [entry.values[derived.LOSS_GAP] for entry in table.entries] == [None, None, -3, -4]
        assert table.options == ("optim.base_lr",)
        assert [entry.options for entry in table.entries] == [(0.3,), (0.4,), (0.1,), (0.2,)]
        assert table.entries[0].progress == "9 (2 epochs)"

    def test_few_options_and_no_rows(self):
        many = {f"optim.{n}": 0.5 for n in ("base_lr", "weight_decay", "momentum", "clip_norm")}
        many |= {f"method.{n}": 0.5 for n in ("temperature", "ema")} | {"epochs": 1.0, "seed": 3}
        table = ranking.table([make_run(), make_run(**many)])
        assert (len(table.options), table.more, table.metrics) == (6, 2, ())


class TestHeader:
    def test_a_run_of_before_has_what_its_config_tells(self):
        found = header.about(make_run(**{"model.name": "vit_small", "seed": 7}))
        assert found["Backbone"] == "vit_small, patches of 16 pixels"
        assert "seed 7" in found["Optimizer"]
        assert "Command" not in found
        assert header.about(Run("x", {}, [], [], {}, {})) == {}

    def test_facts_are_told(self, tmp_path):
        path = runs.write_run(tmp_path / "run", facts=False)
        facts = {
            "outcome": "complete", "message": "", "steps": 110, "date": "", "data": {},
            "command": "python -m moco_jax.main --config=x.py", "recipe": "tau 0.1",
            "versions": {"moco_jax": "1.2", "commit": "abc+"},
            "hardware": {"devices": "8 x H100", "processes": 2, "CPU cores of a host": 16},
            "program": {"compile_seconds": 31.2, "temporary_bytes": 2e9, "argument_bytes": 1e9,
                        "peak_process_bytes": 5e9},
        }  # fmt: skip
        rundir.save_facts(path, facts)
        rundir.save_facts(path, facts | {"program": {"peak_process_bytes": 3e9}})
        about = header.about(rundir.read_all([path])[0])
        assert about["Method"] == "moco, tau 0.1"
        assert about["Hardware"] == "8 x H100, 16 CPU cores of a host, 2 processes"
        assert about["Memory"] == (
            "2.00 GB a device for a step, beside 1.00 GB of state and batch; at most 5.00 GB in "
            "the first process"
        )
        assert about["Compilation"] == "31 s for the step"
        assert about["Version"] == "moco_jax 1.2, commit abc+"
        assert about["Command"] == facts["command"]

    def test_the_interval_of_knn_and_what_is_noise(self):
        rows = [
            {"step": 0, "knn_top1": 0.275, "knn_top1_raw": 0.812},
            {"step": 9, "knn_top1": 0.816},
        ]
        results = [record("step 9", 20, 0.07, 0.816)]
        knn = header.summary(make_run(rows, results))[0]
        assert knn.value == "81.6%"
        assert knn.remark == "95%: 79.8 to 83.2; untrained 27.5%; raw pixels 81.2% (within noise)"


def test_facts_are_json(tmp_path, monkeypatch):
    from moco_jax.report import origin

    found = origin.program(origin.Compiled(1.26, 5, 6))
    assert json.loads(json.dumps(found)) == found
    assert (found["compile_seconds"], found["temporary_bytes"]) == (1.3, 5)
    assert origin.joined({"peak_x": 5, "a": 1}, {"peak_x": 3, "b": 2}) == {
        "peak_x": 5, "a": 1, "b": 2,
    }  # fmt: skip
    monkeypatch.setattr(origin, "_PACKAGE", tmp_path / "site-packages" / "moco_jax")
    (tmp_path / ".git").mkdir()
    assert origin.commit.__wrapped__() == "", "another's repository further up is not the package's"
