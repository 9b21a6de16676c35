"""Docstrings tell what a function takes and raises; the pages of the API list what is public."""

import ast
import pathlib
import re

import pytest

from moco_jax import errors
from tests.documents import ROOT

MODULES = sorted((ROOT / "moco_jax").rglob("*.py"))
PAGES = [ROOT / "docs" / name for name in ("api.md", "api_parts.md")]
# An array of a stated shape, and what is said elsewhere: neither repeats names of arguments.
SHAPE = re.compile(r"\([A-Z]\w{0,2},[ \w,*]*\)|\(\.\.\., C\)")
ELSEWHERE = re.compile(r"\b(?:[Ss]ee|[Aa]s|those of|What|The) (?:in )?`\w")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OURS = {
    name
    for name, x in vars(errors).items()
    if isinstance(x, type) and x.__module__ == errors.__name__
}


def is_public(name):
    return not name.startswith("_") or name == "__call__"


def public(body, prefix=""):
    """Functions, classes and their methods, each with its name."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and is_public(node.name):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def names_in(text, names):
    return [name for name in names if re.search(rf"\b{name}s?\b", text)]


def arguments(function):
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls", "_")]


def fields(node):
    """Annotated attributes of a class: of a tuple, a dataclass or a module."""
    return [
        x.target.id for x in node.body if isinstance(x, ast.AnnAssign) and is_public(x.target.id)
    ]


def section(text, title):
    """What stands below the title of a docstring's section."""
    found = re.search(rf"^{title}:\n((?:[ ].*\n|\n)*)", text + "\n", re.MULTILINE)
    return found[1] if found else ""


def raised(function):
    """The errors of ours that a function raises by itself, not by one inside it."""
    left, names = list(function.body), set()
    while left:
        node = left.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            names.add(ast.unparse(node.exc.func).rpartition(".")[2])
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            left += ast.iter_child_nodes(node)
    return names & OURS


def gaps(node):
    """What the docstring of a function or class lacks."""
    text = ast.get_docstring(node) or ""
    if not text:
        return ["no docstring"]
    if isinstance(node, ast.ClassDef):
        named = section(text, "Attributes")
        missing = [x for x in fields(node) if named and x not in names_in(named, [x])]
        return [f"attribute {x}" for x in missing]
    names, told = arguments(node), section(text, "Args")
    free = len(names) < 2 or SHAPE.search(text) or ELSEWHERE.search(text)
    missing = (
        [] if free and not told else [x for x in names if x not in names_in(told or text, [x])]
    )
    found = [f"argument {x}" for x in missing]
    described = re.findall(r"^  (\w+): ", told, re.MULTILINE)
    taken = {*names, *(x.arg for x in (node.args.vararg, node.args.kwarg) if x)}
    found += [f"{x} is no argument" for x in described if x not in taken]
    return found + [f"raises {x}" for x in sorted(raised(node)) if x not in text]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_public_is_described(file):
    found = {name: gaps(node) for name, node in public(ast.parse(file.read_text()).body)}
    assert {name: lacks for name, lacks in found.items() if lacks} == {}


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ("def f(a):\n  return a", ["no docstring"]),
        ("def f(a, b):\n  'Adds.'", ["argument a", "argument b"]),
        ("def f(a, b):\n  '''Adds.\n\n  Args:\n    a: one.\n  '''", ["argument b"]),
        (
            "def f(a):\n  '''Adds.\n\n  Args:\n    b: one.\n  '''",
            ["argument a", "b is no argument"],
        ),
        ("def f(a):\n  'Adds.'\n  raise InputError(a)", ["raises InputError"]),
        (
            "class F:\n  '''A.\n\n  Attributes:\n    a: one.\n  '''\n  a: int\n  b: int",
            ["attribute b"],
        ),
        ("def f(a, b):\n  'Adds `a` and `b`.'", []),
        ("def f(a, b):\n  'Sums (B, C) of both.'", []),
    ],
)
def test_gaps_are_found(source, lacks):
    (node,) = ast.parse(source).body
    assert gaps(node) == lacks


def listed(page):
    """Module, or a name in one, and the members of each entry of a page."""
    text = page.read_text()
    entry = re.compile(r"^::: (\S+)\n(?: +options:\n +members: \[(.*)\]\n)?", re.MULTILINE)
    return [(name, members.split(", ") if members else []) for name, members in entry.findall(text)]


def module_of(name):
    path = ROOT.joinpath(*name.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in files if file.is_file()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_list_what_is_public(page):
    entries = listed(page)
    assert len(entries) == page.read_text().count(":::") > 5
    for name, members in entries:
        if not (file := module_of(name)):
            name, _, member = name.rpartition(".")
            file, members = module_of(name), [member]
        there = {name for name, _ in public(ast.parse(pathlib.Path(file).read_text()).body)}
        assert set(members) <= there, name
