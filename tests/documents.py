"""README.md and the pages of docs/: their fenced blocks, and the commands that they show."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CONFIGS = sorted((ROOT / "configs").rglob("[!_]*.py"))
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python (?:-m|launch/)|make [a-z]|docker |--config\.)[^`]*)`")
_HEAD = re.compile(r"^(python -m .*?)(?:  .*)?$", re.MULTILINE)  # of a config: notes after a gap


class Shown(NamedTuple):
    """A command as a page shows it.

    Attributes:
      where: file of the repository.
      text: the command, on one line.
      synopsis: whether it is a sketch of its arguments, with brackets.
    """

    where: str
    text: str
    synopsis: bool


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """What stands after the fence, and the text, of each fenced block."""
    return _FENCE.findall(page.read_text())


def commands() -> list[Shown]:
    """All commands of the pages, in blocks and within lines, and of the configs' heads."""
    found = []
    for page in PAGES:
        where, text = str(page.relative_to(ROOT)), page.read_text()
        for language, block in blocks(page):
            if not language:
                joined = re.sub(r"\\\n", " ", re.sub(r"\n +\[", " [", block))
                found += [(where, line) for line in joined.splitlines() if line.strip()]
        found += [(where, " ".join(x.split())) for x in _INLINE.findall(_FENCE.sub("", text))]
    for file in CONFIGS:
        found += [(str(file.relative_to(ROOT)), x) for x in _HEAD.findall(file.read_text())]
    return [Shown(where, text, "[--" in text) for where, text in dict.fromkeys(found)]


def programs(text: str) -> list[list[str]]:
    """The words of the programs that a line starts, without settings of the environment."""
    words = shlex.split(text, comments=True)
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]
