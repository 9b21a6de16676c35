"""The command: python -m moco_jax configs [NAME[:ARGUMENT]] [--copy=FILE].

Lists the recipes that the package brings; with a name, shows what one is for and all its options,
or copies it, to be edited. Exit codes: 0 done, 2 wrong input.
"""

import argparse
import importlib
import pathlib
import shlex
from collections.abc import Sequence

from moco_jax import config
from moco_jax.commands import packaged
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.errors import InputError
from moco_jax.files import replace


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax configs", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("name", nargs="?", metavar="NAME[:ARGUMENT]", help="v3_vit:b16, for example")
    p.add_argument("--copy", type=pathlib.Path, metavar="FILE", help="file to write")
    return p


def shown(name: str) -> str:
    """What a recipe is for, and its options as the command line takes them.

    Args:
      name: of a config, with its argument: 'v3_vit:b16' or 'configs/v3_vit.py:b16'.

    Raises:
      InputError: there is none of that name, or it has no such argument.
    """
    file, colon, argument = name.partition(":")
    path = _path(file)
    packaged.make_importable()
    get_config = importlib.import_module(f"{packaged.FOLDER}.{path.stem}").get_config
    try:
        c = get_config(argument) if colon else get_config()
    except TypeError as error:
        raise InputError(f"{packaged.FOLDER}/{path.name} takes no argument: {name}") from error
    values = config.flat(c.to_dict()).items()
    lines = [f"  --config.{option}={_quoted(value)}" for option, value in values]
    return "\n".join([
        packaged.description(path).rstrip(), "",
        f"Its options; meaning, unit and source of each stand in {config.__file__}:", *lines,
    ])  # fmt: skip


def _quoted(value: object) -> str:
    return shlex.quote(str(value))


def _path(file: str) -> pathlib.Path:
    known = packaged.files()
    stems = {path.stem: path for path in known.values()}
    return stems[config.choose("config", pathlib.Path(file).name.removesuffix(".py"), stems)]


def copy(name: str, out: pathlib.Path) -> None:
    """Copies a recipe.

    Args:
      name: of the config, with or without its argument.
      out: the file to write; must not exist.

    Raises:
      InputError: there is none of that name, or the file exists or cannot be written.
    """
    path = _path(name.partition(":")[0])
    if out.exists() and not out.is_dir():
        raise InputError(f"--copy={out} exists; expected the name of a new file")
    check_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, path.read_text())
    print(f"{out} is a copy of {path}: edit it, and train by --config={out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Lists, shows or copies; returns the exit code."""
    flags = parser().parse_args(argv)

    def run() -> None:
        if flags.copy and not flags.name:
            raise InputError(f"--copy={flags.copy}: name the config to copy, e.g. configs v3_vit")
        if flags.copy:
            copy(flags.name, flags.copy)
        elif flags.name:
            print(shown(flags.name))
        else:
            print(packaged.listing())
            print("\npython -m moco_jax configs NAME:ARGUMENT shows one, and its options")

    return guarded(run)
