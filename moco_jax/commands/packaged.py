"""The recipes: those of a folder configs/ here, and beside them those that the package brings."""

import ast
import importlib.util
import pathlib
import re
import sys
import types

FOLDER = "configs"
# ':s16', 'v3_vit.py:s16' and ':m=0.99' in a docstring: what a config file takes after its name.
_ARGUMENT = re.compile(r"(?:(?<=[\s(])|(?<=\.py)):(\w+(?:=[\w.]*\w)?)")


def folder() -> pathlib.Path:
    """Where the package's recipes lie: in it where it is installed, beside it in a checkout."""
    package = pathlib.Path(__file__).parents[1]
    places = (package / FOLDER, package.with_name(FOLDER))
    return next((place for place in places if place.is_dir()), places[0])


def files(below: str = "") -> dict[str, pathlib.Path]:
    """The package's config files by name, 'v3_vit.py'; those of a folder below, 'study'."""
    there = sorted(folder().joinpath(below).glob("*.py"))
    return {p.name: p for p in there if not p.name.startswith("_")}


def find(path: str) -> str:
    """`path` where it is there; else, of a file in configs/, the package's."""
    own = pathlib.Path(path)
    if own.parts[:1] != (FOLDER,) or own.exists():
        return path
    ours = folder().joinpath(*own.parts[1:])
    return str(ours) if ours.is_file() else path


def described(value: str) -> str:
    """What the log says of the value of --config, or of a study, as `find` has made it."""
    path = pathlib.Path(value.partition(":")[0])
    ours = path.is_absolute() and path.is_relative_to(folder())
    return f"{value}, of the package" if ours else value


def make_importable() -> None:
    """`from configs import demo` takes configs/demo.py of this folder, or else the package's."""
    if FOLDER not in sys.modules:
        here = importlib.util.find_spec(FOLDER)
        sys.modules[FOLDER] = types.ModuleType(FOLDER)
        sys.modules[FOLDER].__path__ = list(here.submodule_search_locations or ()) if here else []
    path = sys.modules[FOLDER].__path__
    sys.modules[FOLDER].__path__ = list(dict.fromkeys([*path, str(folder())]))


def description(path: pathlib.Path) -> str:
    """The docstring of a config file."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def arguments(text: str) -> list[str]:
    """What a config file takes after its name, as its docstring says."""
    return list(dict.fromkeys(_ARGUMENT.findall(text)))


def listing() -> str:
    """The package's config files, with the first line of each and its arguments."""
    texts = {name: description(path) for name, path in files().items()}
    width = max(map(len, texts), default=0)
    lines = []
    for name, text in texts.items():
        lines.append(f"  {FOLDER}/{name:{width}}  {text.splitlines()[0]}")
        if known := arguments(text):
            lines.append(f"  {'':{len(FOLDER) + 1 + width}}  {' '.join(f':{x}' for x in known)}")
    return "\n".join(lines)
