"""A study of real programs: one member fails, the other is stopped half-way and goes on."""

import csv
import shutil

import pytest

from moco_jax import metrics
from moco_jax.commands import study
from tests.tiny import write_config_file

STUDY = """
from moco_jax.studies import Member, Study
def get_study():
    return Study([Member("broken", {broken!r}), Member("good", {good!r})], (0,),
                 {{"knn.every_epochs": 0.0, "evals.names": ()}})
"""
BROKEN = """
import runpy
whole = runpy.run_path({path!r})["get_config"]
def get_config():
    c = whole("v3")
    c.data.source = "folder:/there/is/none"
    return c
"""


@pytest.mark.slow
def test_a_failing_member_and_one_that_goes_on(tmp_path):
    write_config_file(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN.format(path=f"{tmp_path}/config.py"))
    good, broken = f"{tmp_path}/config.py:v3", f"{tmp_path}/broken.py"
    (tmp_path / "mine.py").write_text(STUDY.format(good=good, broken=broken))
    command = [str(tmp_path / "mine.py"), f"--workdir={tmp_path / 'study'}"]
    run = tmp_path / "study" / "good-seed0"
    assert study.main(command) == 2
    whole = metrics.read(run)
    assert whole[-1]["step"] == 20

    # As a kill after step 12 leaves it.
    for path in (run / "checkpoints").iterdir():
        if int(path.name) > 12:
            shutil.rmtree(path)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:14]))
    shutil.rmtree(run / "report")
    assert study.main([*command, "--part=2/2"]) == 0
    again = metrics.read(run)
    for name in ("step", "loss", "grad_norm_first_max"):
        assert [row.get(name) for row in again] == [row.get(name) for row in whole]
    rows = csv.DictReader((tmp_path / "study" / "table.csv").read_text().splitlines())
    assert {row["member"]: row["runs"] for row in rows} == {
        "broken": "1 not begun",
        "good": "1 complete",
    }
