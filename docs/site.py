"""Hooks of MkDocs: README.md is the first page; links out of docs/ and private names are none."""

import pathlib
import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
_FILE = re.compile(r"^```python (?:file|source)=(\S+)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds README.md as index.md, its links as seen from docs/."""
    text = _LINK.sub(_from_docs, (ROOT / "README.md").read_text())
    files.append(File.generated(config, "index.md", content=text))
    return files


def _from_docs(link: re.Match) -> str:
    path = link[2]
    inside = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
    return f"[{link[1]}]({inside})"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What is there but outside docs/ is no link; what is not there stays one, and fails.

    A block that names its file has the name above it.
    """
    return _LINK.sub(_named, _FILE.sub(r'```python title="\1"', markdown))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Refuses a page that lists a private name of the package, or has a block that is none.

    Raises:
      PluginError: it does.
    """
    if "```" in html:
        raise PluginError(f"{page.file.src_path}: a fenced block is not understood")
    if private := re.findall(r'id="(moco_jax[\w.]*\._(?!_)[\w.]+)"', html):
        raise PluginError(f"{page.file.src_path} lists private names: {', '.join(private)}")
    return html


def _named(link: re.Match) -> str:
    path = link[2].partition("#")[0]
    outside = path.startswith("../") and (ROOT / "docs" / path).exists()
    return link[1] if outside else link[0]
