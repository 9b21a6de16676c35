"""log.txt of a workdir: what the package logs, with times, and how the run failed."""

import logging
import re

import pytest

from moco_jax import logfile
from tests.memory import empty_bucket

log = logging.getLogger("moco_jax.somewhere")


def a_run(number):
    log.info("start %d", number)
    raise OSError(f"broken {number}")


def test_what_is_logged_and_what_ended_the_run(tmp_path, caplog):
    caplog.set_level(logging.INFO, "moco_jax")
    for number in (1, 2):
        with pytest.raises(OSError, match="broken"), logfile.logged(tmp_path):
            a_run(number)
    log.info("afterwards")
    lines = (tmp_path / logfile.FILE).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO start 1", "ERROR broken 1", "INFO start 2", "ERROR broken 2",
    ]  # fmt: skip
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in lines)


@pytest.mark.parametrize("how", ["a folder in its place", "no folder"])
def test_one_that_cannot_be_written_ends_nothing_and_is_not_said(how, tmp_path, capsys):
    workdir = tmp_path / "run"
    if how == "a folder in its place":
        (workdir / logfile.FILE).mkdir(parents=True)
    with logfile.logged(workdir):
        log.warning("said elsewhere")
    assert "Traceback" not in capsys.readouterr().err


def test_an_object_in_a_bucket_keeps_the_lines_before(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "moco_jax")
    place = empty_bucket(monkeypatch)
    for number in (1, 2):
        with logfile.logged(place):
            log.info("start %d", number)
    lines = (place / logfile.FILE).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO start 1", "INFO start 2"]
