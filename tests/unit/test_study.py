"""Studies: what is run, how they end, what the table says; with a stand-in for the training."""

import csv
import json
import re
import signal

import pytest

from moco_jax import studies
from moco_jax.commands import members, study
from moco_jax.config import as_json
from moco_jax.errors import InputError
from moco_jax.report import comparison
from moco_jax.report.rundir import Run
from tests import runs

STUDY = """
from moco_jax.studies import Member, Study
def get_study(size="demo"):
    if size != "demo":
        raise ValueError(size)
    names = {names!r}
    return Study([Member(name, "configs/demo.py:m=0.5", 50.0) for name in names], {seeds!r},
                 {{"log.every_steps": 7}})
"""
# What a training leaves, by the member's name; notes that it was called.
TRAINING = """
import json, os, pathlib, shutil, signal, sys, time
work = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
with open({calls!r}, "a") as f:
    f.write(work.name + "\\n")
kind = work.name.partition("-")[0]
made = pathlib.Path({made!r})
if kind == "wrong":
    sys.exit(2)
if kind == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
stopped = kind == "stopped" and not work.exists()
shutil.copytree(made / ("part" if stopped else kind if kind == "diverged" else "good"), work,
                dirs_exist_ok=True)
shutil.copy(made / (work.name.partition("seed")[2] + ".json"), work / "config.json")
if stopped:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(30)
sys.exit(3 if kind == "diverged" else 0)
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """(names, seeds, flags) -> exit code, what was run, the table's rows."""
    made, calls = tmp_path / "made", tmp_path / "calls"
    runs.write_run(made / "good")
    runs.write_run(made / "part", runs.rows(5), facts=False)
    runs.write_run(made / "diverged", runs.rows(5))
    facts = json.loads((made / "diverged/report/run.json").read_text())
    facts |= {"outcome": "diverged", "message": "not finite"}
    (made / "diverged/report/run.json").write_text(json.dumps(facts))
    script = tmp_path / "training.py"
    script.write_text(TRAINING.format(calls=str(calls), made=str(made)))
    monkeypatch.setattr(members, "MAIN", (str(script),))

    def run(names, seeds=(0,), *flags):
        file, work = tmp_path / "mine.py", tmp_path / "study"
        file.write_text(STUDY.format(names=names, seeds=seeds))
        for one in members.plan(members.load(str(file), ""), work, []):
            text = json.dumps(as_json(one.config))
            (made / f"{one.config.seed}.json").write_text(text)
        calls.write_text("")
        code = study.main([str(file), f"--workdir={work}", *flags])
        table = work / "table.csv"
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
        return code, calls.read_text().split(), {row["member"]: row for row in rows}

    return run


def test_all_complete_and_again_nothing_is_run(call, tmp_path):
    code, called, table = call(("good", "other"), (0, 1))
    assert (code, called) == (0, ["good-seed0", "other-seed0", "good-seed1", "other-seed1"])
    assert table["good"]["n"] == "2"
    assert table["good"]["published_linear_top1"] == "50.0"
    assert float(table["good"]["knn_top1_mean"]) == pytest.approx(0.68)
    page = (tmp_path / "study" / "report.html").read_text()
    assert "other-seed1" in page
    assert call(("good", "other"), (0, 1))[:2] == (0, [])


def test_a_failing_member_does_not_end_the_others(call, caplog):
    code, called, table = call(("wrong", "diverged", "killed", "good"))
    assert code == 1
    assert called == ["wrong-seed0", "diverged-seed0", "killed-seed0", "good-seed0"]
    assert {name: row["runs"] for name, row in table.items()} == {
        "wrong": "1 not begun", "diverged": "1 diverged", "killed": "1 not begun",
        "good": "1 complete",
    }  # fmt: skip
    assert table["diverged"]["n"] == "0"
    assert "killed-seed0: it failed, code 1" in caplog.text
    assert "diverged-seed0: it diverged" in caplog.text
    # What is complete or diverged is final; the others are tried again.
    code, called, _ = call(("wrong", "diverged", "killed", "good"))
    assert (code, called) == (1, ["wrong-seed0", "killed-seed0"])


@pytest.mark.parametrize(
    ("names", "code"), [(("diverged", "good"), 3), (("diverged", "wrong"), 2), (("good",), 0)]
)
def test_the_exit_code_is_that_of_the_worst(names, code, call):
    assert call(names)[0] == code


def test_a_signal_stops_the_study_and_the_same_command_goes_on(call):
    before = signal.getsignal(signal.SIGTERM)
    code, called, table = call(("good", "stopped", "later"))
    assert (code, called) == (75, ["good-seed0", "stopped-seed0"])
    assert table["stopped"]["runs"] == "1 unfinished"
    assert signal.getsignal(signal.SIGTERM) is before
    code, called, table = call(("good", "stopped", "later"))
    assert (code, called) == (0, ["stopped-seed0", "later-seed0"])
    assert table["stopped"]["runs"] == "1 complete"


def test_parts_are_all_runs_each_once(call):
    names, seeds, seen = ("a", "b", "c"), (0, 1), []
    for part in ("1/4", "2/4", "3/4", "4/4"):
        code, called, table = call(names, seeds, f"--part={part}")
        assert code == 0
        seen += called
    assert sorted(seen) == sorted(f"{name}-seed{seed}" for name in names for seed in seeds)
    assert [table[name]["n"] for name in names] == ["2", "2", "2"], "the last sees all"


def test_a_run_under_another_config_is_not_taken_for_done(call):
    assert call(("good",))[1] == ["good-seed0"]
    assert call(("good",), (0,), "--config.epochs=3")[1] == ["good-seed0"]


def test_the_commands_of_the_runs_are_listed(call, capsys):
    assert call(("good",), (0,), "--list", "--seeds=5", "--config.epochs=3")[:2] == (0, [])
    line = capsys.readouterr().out.strip()
    assert "--config=configs/demo.py:m=0.5 --config.log.every_steps=7 --config.epochs=3" in line
    assert "--config.seed=5 --workdir=" in line
    assert line.endswith("good-seed5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["configs/study/momentums.py"], "did you mean 'configs/study/momentum.py'.*stability.py"),
        (["configs/study/momentum.py:big"], "size='big' is not one of cifar10, demo, imagenet"),
        (["configs/demo.py"], r"configs/demo.py has no get_study\(size\)"),
        (
            ["configs/study/momentum.py", "--config.epoch=3"],
            "member 'm=0': .*did you mean 'epochs'",
        ),
        (
            ["configs/study/momentum.py", "--config.epochs=-3"],
            "member 'm=0': epochs=-3.0: expected",
        ),
        (["configs/study/momentum.py", "--seeds=1,1"], "seeds of a study: 1 is there twice"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(flags, message, tmp_path, capsys):
    assert study.main([*flags, f"--workdir={tmp_path / 'study'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--part=0/4", "expected i/n, from 1/n to n/n"),
        ("--part=5/4", "expected i/n"),
        ("--part=2", "expected i/n"),
        ("--config.seed=3", "expected --seeds"),
        ("--confg.epochs=3", "unexpected argument '--confg.epochs=3'"),
    ],
)
def test_wrong_flags_are_refused(flag, message, capsys):
    with pytest.raises(SystemExit) as end:
        study.main(["configs/study/momentum.py", "--workdir=x", flag])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_study(", "mine.py, line 1: SyntaxError"),
        ("def get_study():\n    return nothing", "mine.py, line 2: NameError"),
        ("def get_study():\n    return []", "gives list, expected a Study"),
    ],
)
def test_a_study_file_that_is_wrong_is_one_line(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        members.plan(members.load(str(file), ""), tmp_path, [])


@pytest.mark.parametrize(
    ("names", "seeds", "message"),
    [
        ((), (0,), "without members"),
        (("a",), (), "without seeds"),
        (("a", "a"), (0,), "members of a study: 'a' is there twice"),
        (("a/b",), (0,), "member 'a/b': expected letters"),
        (("a",), (-1,), "seed -1: expected a whole number"),
        (("a",), (True,), "seed True: expected a whole number"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(names, seeds, message):
    with pytest.raises(InputError, match=message):
        studies.check(studies.Study([studies.Member(name, "x.py") for name in names], seeds))


@pytest.mark.parametrize("size", studies.SIZES)
@pytest.mark.parametrize(
    "name",
    ["momentum", "queue_size", "v2_ingredients", "methods", "position", "heads", "stability"],
)
def test_the_studies_of_the_package_can_be_run(name, size, tmp_path):
    """Configs are read and checked; members differ, and runs of a member by the seed alone."""
    made = members.plan(members.load(f"configs/study/{name}.py", size), tmp_path, [])
    texts = set()
    for run in made:
        seed = run.config.seed
        assert run.name == f"{run.member.name}-seed{seed}"
        run.config.seed = 0
        texts.add(json.dumps(as_json(run.config)))
    assert len(texts) == len({run.member.name for run in made})
    assert all(run.member.published is None for run in made) or size == "imagenet"


def test_mean_and_spread_against_numbers_by_hand():
    def run(*knn):
        rows = [{"step": i, "knn_top1": value} for i, value in enumerate(knn)]
        return Run("x", {}, rows, [], {}, {})

    row = comparison.Row("m", ["complete", "complete", "diverged"], [run(0.2, 0.5), run(0.3, 0.8)],
                         None)  # fmt: skip
    (line,) = csv.DictReader(comparison.as_csv([row]).splitlines())
    assert float(line["knn_top1_mean"]) == pytest.approx(0.65)
    assert float(line["knn_top1_spread"]) == pytest.approx(0.3 / 2**0.5)  # n - 1
    assert float(line["knn_top1_untrained_mean"]) == pytest.approx(0.25)
    assert (line["n"], line["runs"], line["loss_mean"]) == ("2", "2 complete, 1 diverged", "")
    text = comparison.as_markdown([row])
    assert "| 65.0 ± 21.2 |" in text
    assert "loss" not in text
