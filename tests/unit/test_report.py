"""The report without a browser: what is in the file, and that it never fails a run."""

import html.parser
import json
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import plotly.graph_objects
import pytest
from plotly.offline import get_plotlyjs

from moco_jax import config, metrics, report
from moco_jax.report import curves, rundir
from tests import runs

VOID = {"meta", "link", "img", "br", "wbr"}
ADDRESS = {"src", "href", "action", "data", "poster", "srcset", "xlink:href"}


class Parser(html.parser.HTMLParser):
    """Elements, attributes and text; fails where a tag is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses, self.text, self.ids = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ADDRESS]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def parse(path):
    """The parsed page, its figures, and its own source without plotly's."""
    text = path.read_text()
    assert text.count(get_plotlyjs()) == 1
    text = text.replace(get_plotlyjs(), "")
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    json_text = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text)[1]
    return parser, json.loads(json_text), text


def traces(figures):
    return {trace["name"]: trace for f in figures.values() for trace in f["data"]}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run with all there is; its names hold markup."""
    rows = runs.rows()
    rows[5]["loss"] = None
    for row in rows[5:]:
        row["skipped"] = 2
    path = tmp_path_factory.mktemp("full") / "run<b>&"
    runs.write_run(path, rows, runs.pictures(), **{"optim.base_lr": 0.5, "data.source": runs.NASTY})
    runs.add_result(path)
    runs.add_knn(path)
    return path


class TestPage:
    def test_refers_to_nothing_outside_itself(self, full):
        parser, _, text = parse(report.write(full))
        assert parser.addresses
        inside = ("data:", "#")
        assert all(address.startswith(inside) for address in parser.addresses)
        links = {address[1:] for address in parser.addresses if address.startswith("#")}
        assert links >= {"curves", "results", "maps", "recipe"}
        assert links <= set(parser.ids), "the contents lead somewhere"
        text = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
        assert not re.search(r"@import|fetch\(|XMLHttpRequest|url\((?!\))|import\(|//\w", text)
        assert "default-src 'none'" in text

    def test_names_stay_text(self, full):
        parser, figures, text = parse(report.write(full))
        assert parser.tags.count("script") == 3
        assert "b" in parser.tags, "the marks of right and wrong"
        assert parser.tags.count("b") == 128
        assert "<script>alert" not in text
        shown = "".join(parser.text)
        assert runs.NASTY in shown
        assert "run<b>&" in shown
        assert any("&lt;script&gt;" in name for name in traces(figures)), "plotly reads markup"

    def test_every_figure_has_a_place_and_plotly_accepts_it(self, full):
        parser, figures, _ = parse(report.write(full))
        assert set(figures) <= set(parser.ids)
        for figure in figures.values():
            plotly.graph_objects.Figure(figure)

    def test_says_what_came_out(self, full):
        shown = "".join(parse(report.write(full))[0].text)
        for text in ("complete", "68.0%", "raw pixels 80.0%", "of 110", "chance 5.500", "77.00"):
            assert text in shown
        assert shown.index("optim.base_lr") < shown.index("All ")
        assert "0.03" in shown, "the default beside the value"

    def test_all_pictures_are_there(self, full):
        parser, figures, _ = parse(report.write(full))
        assert parser.tags.count("img") == 8 * 3 + 8 * 17
        names = [trace["name"] for trace in figures["map0"]["data"]]
        assert names[:2] == ["shirt", "boot"]
        assert sum(len(trace["x"]) for trace in figures["map0"]["data"]) == 200


class TestCurves:
    def test_hold_what_metrics_hold(self, full):
        rows, shown = metrics.read(full), traces(parse(report.write(full))[1])
        for label, column in {
            "loss": "loss", "features": "knn_top1", "last layer":
            "grad_norm_last", "training": "images_per_second",
        }.items():  # fmt: skip
            there = [row for row in rows if column in row]
            assert shown[label]["y"] == [row[column] for row in there]
            assert shown[label]["x"] == [row["step"] for row in there]
            assert shown[label]["meta"]["epoch"] == [row["epoch"] for row in there]
        assert None in shown["loss"]["y"]
        assert shown["loss"]["connectgaps"] is False

    def test_floors_go_across_the_chart(self, full):
        shown = traces(parse(report.write(full))[1])
        for label, value in (("before training", 0.5), ("raw pixels", 0.8)):
            assert shown[label]["y"] == [value, value]
            assert shown[label]["x"] == [0, 110]
            assert shown[label]["line"]["dash"] != "solid"

    def test_skipped_steps_are_marked(self, full):
        mark = traces(parse(report.write(full))[1])["skipped"]
        assert mark["x"] == [50]
        assert mark["text"] == ["2 steps skipped"]

    def test_unknown_columns_are_kept(self, tmp_path):
        rows = [{"step": 5, "epoch": 1.0, "test_top1": 0.5, "top5": 0.9, "strange": 7, "note": "x"}]
        groups = curves.groups(rundir.read_all([runs.write_run(tmp_path / "run", rows)]))
        titles = {group.title: [c.column for c in group.curves] for group in groups}
        assert titles == {
            "Accuracy, top-1": ["test_top1"], "Accuracy, top-5": ["top5"],
            "Other: strange": ["strange"],
        }  # fmt: skip

    def test_many_points_are_thinned_but_spikes_and_gaps_stay(self):
        values = np.sin(np.arange(50_000) / 900).tolist()
        values[31_111], values[40_000] = 100.0, None
        keep = curves.thin(values, 200)
        assert len(keep) <= 3 * 100 + 2
        assert {0, 31_111, 40_000, 49_999} <= set(keep)
        assert keep == sorted(set(keep))
        assert curves.thin([1.0, None], 2) == [0, 1]

    @pytest.mark.parametrize("count", [0, 1, 2, 3])
    @pytest.mark.parametrize("labels", [True, False])
    def test_few_rows(self, tmp_path, count, labels):
        """What has one value is a sentence."""
        rows = runs.rows(count, labels) if count else []
        path = runs.write_run(tmp_path / "run", rows, facts=False)
        parser, figures, _ = parse(report.write(path))
        assert len(figures) == {0: 0, 1: 0, 2: 0, 3: 6}[count]
        shown = "".join(parser.text)
        assert ("kNN accuracy, features: 50.0%" in shown) == (labels and count > 0)
        assert ("EMA coefficient: 0.99" in shown) == (count > 1)


class TestSeveralRuns:
    @pytest.fixture
    def two(self, tmp_path):
        first = runs.write_run(tmp_path / "a", **{"optim.base_lr": 0.5, "epochs": 3.0})
        second = runs.write_run(
            tmp_path / "b", runs.rows(30), runs.pictures(False), **{"optim.base_lr": 0.7}
        )
        return first, second

    def test_share_axes_and_keep_one_colour(self, two, tmp_path):
        _, figures, text = parse(report.compare(two, tmp_path / "out.html"))
        for figure in figures.values():
            for trace in figure["data"]:
                if trace["mode"] != "markers":
                    number = 0 if trace["name"].startswith("a: ") else 1
                    assert trace["line"]["color"] == curves.COLOURS[number]
        names = [trace["name"] for trace in figures["chart0"]["data"]]
        assert names == ["a: loss minus chance", "b: loss minus chance"]
        assert figures["chart0"]["data"][0]["y"][0] == pytest.approx(6.0 - 5.5)
        table = text[text.index("Where the runs differ") :]
        table = table[: table.index("</table>")].replace("<wbr>", "")
        assert "optim.base_lr" in table
        assert "epochs" in table
        assert "optim.momentum" not in table

    def test_names_tell_equal_names_apart(self, tmp_path):
        paths = [runs.write_run(tmp_path / side / "run") for side in ("left", "right")]
        assert [run.name for run in rundir.read_all(paths)] == [str(path) for path in paths]

    def test_names_of_runs_are_text_to_plotly(self, two, full, tmp_path):
        _, figures, _ = parse(report.compare([full, two[0]], tmp_path / "out.html"))
        assert "run&lt;b&gt;&amp;: loss minus chance" in traces(figures)

    def test_what_is_no_run_is_named(self, two, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"empty is not the workdir of a run.*metrics"):
            report.compare([*two, tmp_path / "empty"], tmp_path / "out.html")
        with pytest.raises(FileNotFoundError, match=r"empt does not exist.*did you mean .*empty"):
            report.compare([tmp_path / "empt"], tmp_path / "out.html")
        assert not (tmp_path / "out.html").exists()

    def test_the_command(self, two, tmp_path):
        def run(*args):
            return subprocess.run(
                [sys.executable, "-m", "moco_jax", "report", *map(str, args)], cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True,
                check=False,
            )  # fmt: skip

        done = run(*two)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "report.html").exists()
        bad = run(tmp_path / "c")
        assert bad.returncode == 2
        assert "Traceback" not in bad.stderr
        assert str(tmp_path / "c") in bad.stderr


class TestOutcome:
    @pytest.mark.parametrize(
        ("facts", "step", "expected"),
        [
            ({}, 8, "complete"),
            ({}, 7, "unfinished"),
            ({"outcome": "stopped", "step": 7, "steps": 8}, 7, "stopped"),
            ({"outcome": "stopped", "step": 5, "steps": 8}, 7, "unfinished"),
            ({"outcome": "diverged", "step": 7, "steps": 8}, 7, "diverged"),
            ({"outcome": "stopped", "step": 5, "steps": 8}, 8, "complete"),
        ],
    )
    def test_is_told_by_steps_and_facts(self, facts, step, expected):
        rows = [{"step": step, "epoch": step / 2.5}]
        run = rundir.Run("x", {"epochs": 3.0}, rows, [], facts, {})
        assert rundir.outcome(run) == expected
        assert rundir.steps(run) == 8

    def test_training_time_is_that_of_the_steps(self):
        rows = [{"step": 0}, {"step": 10, "images_per_second": 20.0},
                {"step": 15, "knn_top1": 0.5}, {"step": 30, "images_per_second": 40.0}]  # fmt: skip
        run = rundir.Run("x", {"data": {"batch_size": 4}}, rows, [], {}, {})
        assert rundir.seconds(run) == 10 * 4 / 20 + 20 * 4 / 40


def test_a_report_that_fails_is_one_warning(tmp_path, caplog, monkeypatch):
    path = runs.write_run(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
    monkeypatch.setattr(rundir, "facts", lambda *_: 1 / 0)
    with caplog.at_level(logging.INFO):
        report.conclude(SimpleNamespace(workdir=path), "complete")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No report.html: ZeroDivisionError: division by zero" in caplog.text
    assert {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} == before


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    path = runs.write_run(tmp_path / "run")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    report.conclude(SimpleNamespace(workdir=path), "stopped")
    assert not (path / report.FILE).exists()


def test_flat_gives_dotted_names_in_order():
    assert config.flat({"b": 1, "a": {"d": [2], "c": {"e": 3}}, "f": {}}) == {
        "a.c.e": 3, "a.d": [2], "b": 1,
    }  # fmt: skip
