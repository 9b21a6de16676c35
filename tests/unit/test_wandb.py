"""W&B as a sink of metrics, by a stand-in for its library: one run through restarts, no delay."""

import sys
import threading
from types import SimpleNamespace

import pytest

from moco_jax import metrics, wandb_sink
from moco_jax.errors import InputError


class Library:
    """What of the library is used; `act` happens before each row is taken."""

    def __init__(self):
        self.begun, self.rows, self.finished, self.act = [], [], 0, lambda: None
        self.offline, self.url = False, "https://there"

    def Settings(self, **settings):
        return settings

    def init(self, **arguments):
        self.begun.append(arguments)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.act()
        self.rows.append(row)

    def finish(self):
        self.finished += 1


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


def run(path, position, *steps):
    writer = metrics.Writer(path, position, tensorboard=False, wandb="mine")
    for step in steps:
        writer.write({"step": step, "loss": float("nan") if step == 2 else 0.5, "name": "x"})
    writer.close()


def test_a_run_that_resumes_is_one_run_there(library, tmp_path, caplog):
    (tmp_path / "config.json").write_text('{"seed": 7}')
    with caplog.at_level("INFO", "moco_jax"):
        run(tmp_path, 0, 1, 2)
        run(tmp_path, 1, 2, 3)
    first, second = library.begun
    assert first == second
    assert first["id"] == (tmp_path / wandb_sink.ID).read_text().strip()
    expected = {"project": "mine", "resume": "allow", "config": {"seed": 7}, "dir": str(tmp_path)}
    assert first.items() >= expected.items()
    assert first["settings"] == {"silent": True, "console": "off"}, "the terminal is the run's own"
    assert library.rows == [{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 2},
                            {"step": 3, "loss": 0.5}]  # fmt: skip
    assert library.finished == 2
    assert "of mine: https://there" in caplog.text
    run(tmp_path / "..", 0)
    assert library.begun[2]["id"] != first["id"]


def fail(*_, **__):
    raise RuntimeError("no\nnetwork")


@pytest.mark.parametrize("where", ["init", "act", "finish"])
def test_what_fails_there_is_said_once_and_left_out(where, library, tmp_path, caplog):
    setattr(library, where, fail)
    run(tmp_path, 0, 1, 2, 3)
    assert caplog.text.count("Nothing more for W&B: RuntimeError: no network") == 1
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("room", [2, 10])
def test_what_hangs_there_delays_nothing(room, library, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(wandb_sink, "END_SECONDS", 0.01)
    monkeypatch.setattr(wandb_sink, "_ROWS", room)
    hanging = threading.Event()
    library.act = hanging.wait
    try:
        run(tmp_path, 0, *range(1, 7))
    finally:
        hanging.set()
    why = "2 rows wait to be sent" if room == 2 else "what is left was not sent"
    assert caplog.text.count("Nothing more for W&B") == caplog.text.count(why) == 1
    assert len(metrics.read(tmp_path)) == 6


def test_only_where_it_is_asked_for_and_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    metrics.Writer(tmp_path, 0, tensorboard=False).close()
    assert not (tmp_path / wandb_sink.ID).exists()
    with pytest.raises(InputError, match=r"log.wandb needs the library 'wandb': .*pip install"):
        metrics.Writer(tmp_path, 0, tensorboard=False, wandb="mine")
    with metrics.reporter(tmp_path, 0, 1, SimpleNamespace(wandb="mine"), writing=False) as report:
        report({"step": 1})  # of a process other than 0
