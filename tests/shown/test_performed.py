"""Every command of README.md and docs/ that can run offline is run, page by page in its order."""

import os
import re
import shlex

import pytest

from moco_jax.commands import members
from moco_jax.data.source import OPENERS
from tests import documents
from tests.documents import ROOT, Shown
from tests.shown.performed import NOT_RUN, PAGES_NOT_RUN, Folder, reason

pytestmark = pytest.mark.shown

SHOWN = [shown for shown in documents.commands() if shown.where.endswith(".md")]
# Each once, where it is first shown; by page.
FIRST = {
    " ".join(shlex.split(shown.text, comments=True)): shown
    for shown in reversed(SHOWN)
    if not reason(shown)
}
RUN: dict[str, list[Shown]] = {}
for one in SHOWN:
    if one in FIRST.values():
        RUN.setdefault(one.where, []).append(one)
PYTHON = {
    str(page.relative_to(ROOT)): blocks
    for page in documents.PAGES
    if (blocks := [text for kind, text in documents.blocks(page) if kind == "python"])
}


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session", autouse=True)
def one_device():
    """Where no test before has begun to use others."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"


@pytest.fixture
def folder(tmp_path, kept, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(OPENERS, "embedded", "tests.shown.performed:open_embedded")
    made = Folder(tmp_path, kept)
    # A member of a study needs no process of its own.
    monkeypatch.setattr(members.Programs, "run", lambda _, arguments: made.train(arguments))
    return made


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page(page, folder):
    for shown in RUN[page]:
        print(f"\n$ {shown.text}")
        folder.perform(shown.text)


@pytest.mark.parametrize("page", sorted(PYTHON.keys() - PAGES_NOT_RUN))
def test_the_python_of_a_page(page, folder):
    for text in PYTHON[page]:
        assert folder.execute(text)["features"].shape[0] == 2


def test_nothing_is_left_out_without_a_reason():
    assert len(FIRST) > 30
    for pattern in NOT_RUN:
        assert any(re.match(pattern, shown.text) for shown in SHOWN), f"{pattern}: needed no more"


@pytest.mark.parametrize(
    "text",
    [
        "python -m moco_jax neighbors --checkpoint=RUN --query=nothing.jpg",
        "python -m moco_jax.main --config=configs/linear.py:demo --config.init=R --workdir=L",
        "git clone URL",
    ],
)
def test_a_command_that_fails_is_found(text, folder):
    shown = Shown("", text, False)
    assert not reason(shown)
    with pytest.raises(Exception):  # noqa: B017
        folder.perform(shown.text)
