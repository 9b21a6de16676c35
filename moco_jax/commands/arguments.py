"""Flags of the programs that take a config file; what is wrong in them is one line.

The libraries that read flags and config files raise errors of many kinds, some of them with a
traceback as their text.
"""

import difflib
import pathlib
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

from moco_jax.commands import packaged
from moco_jax.errors import InputError, MissingError, WrongInputError

_NAMED = 20  # files of a folder that an error names
_SUGGESTION = re.compile(r'Did you mean "(.+)" instead of "(.+)"\?')


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses the flags, among them 'config', a config file and what overrides it.

    Args:
      values: the flags.
      argv: the program's name and its arguments.

    Raises:
      InputError: a flag, an option or the config file is wrong; one line, with the nearest valid.
      MissingError: there is no such config file.
    """
    argv = _with_packaged(argv)
    path = _config_path(argv)
    check_file("--config", path)
    packaged.make_importable()
    try:
        rest = values(list(argv))
        config = values["config"].value
        hasattr(config, "lock")  # a file that cannot be read shows at first use
    except Exception as error:
        raise _explained(error, argv) from error
    if not isinstance(config, ConfigDict):
        name = type(config).__name__
        raise InputError(f"--config={path}: get_config() gives {name}, expected a ConfigDict")
    if len(rest) > 1:
        raise InputError(f"unexpected arguments: {' '.join(rest[1:])}")


def of_file(error: Exception) -> Exception | None:
    """The error to raise for one that the user's Python gave: one line; the machine's as it is.

    None where it arose elsewhere.
    """
    chain = list(_chain(error))
    ours = [cause for cause in chain if isinstance(cause, WrongInputError)]
    if ours:
        return ours[-1]  # the ones before it repeat it with its traceback as their text
    root = chain[-1]
    if isinstance(root, MemoryError) or (isinstance(root, OSError) and root.errno):
        return error
    for cause in chain:
        if place := _place(cause):
            return InputError(f"{place}: {type(cause).__name__}: {_text(cause)}")
    return None


def _explained(error: Exception, argv: Sequence[str]) -> Exception:
    """The error to raise instead."""
    if found := of_file(error):
        return found
    if isinstance(error, KeyError | AttributeError) and (text := _override(error, argv)):
        return InputError(text)
    root = list(_chain(error))[-1]
    own = isinstance(error, flags.Error) and root is error
    return InputError(str(error).strip() if own else f"{_flag(error, argv)}: {_text(root)}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """File and line of a config file where the error arose; '' where it arose elsewhere."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    libraries = {*sysconfig.get_paths().values(), str(pathlib.Path(__file__).parents[1])}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = pathlib.Path(frame.filename).absolute()
        if file.is_file() and not any(file.is_relative_to(folder) for folder in libraries):
            return f"{frame.filename}, line {frame.lineno}"
    return ""


def _text(error: BaseException) -> str:
    """What an error says, on one line and without the list of all options."""
    if isinstance(error, SyntaxError):
        return error.msg
    text = str(error.args[0]) if error.args else type(error).__name__
    if found := _SUGGESTION.search(text):
        return f"there is no {found[2]!r}; did you mean {found[1]!r}?"
    return " ".join(text.split())


def _override(error: Exception, argv: Sequence[str]) -> str:
    """Names the argument that overrides an option that is not there; '' where none does."""
    text = _text(error)
    for argument in argv:
        path = argument.partition("=")[0].partition(".")[2]
        if path and (path in text or any(f"'{part}'" in text for part in path.split("."))):
            return f"{argument}: {text if 'there is no' in text else 'there is no such option'}"
    return ""


def _flag(error: Exception, argv: Sequence[str]) -> str:
    """The flag that an error of absl is about."""
    found = re.match(r"flag (--\S+?): ", str(error))
    return found[1] if found else f"--config={_config_path(argv)}"


def _config_value(argv: Sequence[str]) -> tuple[int, str, str]:
    """Of --config: which argument holds its value, what stands before the value, and the value."""
    for at, (arg, following) in enumerate(zip(argv, [*argv[1:], ""], strict=True)):
        name, equals, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == "config":
            return (at, arg.removesuffix(value), value) if equals else (at + 1, "", following)
    return -1, "", ""


def _config_path(argv: Sequence[str]) -> str:
    """The path that --config names, without its argument."""
    return _config_value(argv)[2].partition(":")[0]


def _with_packaged(argv: Sequence[str]) -> list[str]:
    """The arguments, with the path of the package's config file where that is meant."""
    at, before, value = _config_value(argv)
    path, colon, argument = value.partition(":")
    found = f"{before}{packaged.find(path)}{colon}{argument}"
    return [found if i == at and path else arg for i, arg in enumerate(argv)]


def check_file(what: str, path: str) -> None:
    """Refuses a Python file that is not there or cannot be read, naming the nearest, or all.

    Args:
      what: names the file: '--config'.
      path: of it; '' is left to who asks for it.

    Raises:
      MissingError: there is none.
      InputError: it cannot be read.
    """
    try:
        if path:
            open(path).close()
    except FileNotFoundError:
        file = pathlib.Path(path)
        there = {p.name for p in file.absolute().parent.glob("[!_]*.py")}
        if file.parts[:1] == (packaged.FOLDER,):
            there |= packaged.files("/".join(file.parent.parts[1:])).keys()
        near = difflib.get_close_matches(file.name, sorted(there), 1, 0.4)
        hint = f"; did you mean {str(file.with_name(near[0]))!r}?" if near else ""
        hint += f" (there are {', '.join(sorted(there))})" if there and len(there) <= _NAMED else ""
        raise MissingError(f"{what}={path}: there is no such file{hint}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{what}={path} cannot be read: {error.strerror}") from error
