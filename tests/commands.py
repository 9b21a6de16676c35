"""Commands that the pages show, parsed as the programs themselves would; nothing is run."""

import argparse
import contextlib
import importlib
import io
import itertools
import re
import sys

from absl import flags
from ml_collections import config_flags

from launch import local
from moco_jax import options
from moco_jax.commands import COMMANDS, arguments, configs, members
from moco_jax.config import default, flat
from moco_jax.methods.networks import bn_groups
from tests import documents
from tests.documents import ROOT

DEFINED = re.compile(r'flags\.DEFINE_(string|integer|float|list|bool)\(\s*"(\w+)"')
MAIN = "moco_jax.main"


def source(module):
    return ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()


def parsed(module, argv):
    """The flags of a program with absl's, of which 'config' is one."""
    argv = ["--config=configs/demo.py" if word == "--config=..." else word for word in argv]
    sys.modules.pop("config_config", None)  # what the file before has defined
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    for kind, name in DEFINED.findall(source(module)):
        getattr(flags, f"DEFINE_{kind}")(name, None, "", flag_values=values)
    arguments.parse(values, ["program", *argv])
    return values


def check_config_flags(module, argv):
    if c := parsed(module, argv)["config"].value:
        options.check(c)
        bn_groups(c)
    return c


def check_arguments(parser, argv):
    """A program with argparse's flags."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            return parser.parse_known_args(argv)
        except (SystemExit, argparse.ArgumentTypeError):
            raise AssertionError(said.getvalue()) from None


def check_command(name, argv):
    assert name in COMMANDS, f"there is no command {name!r}"
    if not argv and name != "configs":
        return None  # it is only named
    if name in ("plan", "preview"):
        return check_config_flags(f"moco_jax.commands.{name}", argv)
    parser = importlib.import_module(f"moco_jax.commands.{name}").parser()
    values, rest = check_arguments(parser, argv)
    if name == "study":
        members.load(*values.study.split(":"))
        check_config_flags(MAIN, ["--config=configs/demo.py", *rest])
    else:
        assert not rest, f"unexpected arguments: {rest}"
    if name == "configs" and values.name not in (None, "NAME:ARGUMENT"):
        configs.shown(values.name)


def check_flags_of(text, argv):
    """A program whose flags are only compared with what stands in its source."""
    known = set(re.findall(r'"--([\w-]+)"|DEFINE_\w+\(\s*"(\w+)"', text))
    known = {name for pair in known for name in pair if name}
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").partition(".")[0]
        assert not word.startswith("--") or name in known, f"there is no {word}"


def check_python(argv):
    if argv[0] == "launch/local.py":
        return check_main(local.parse(argv[1:]).main)
    assert argv[0] == "-m", argv
    module, rest = argv[1], argv[2:]
    if module == "moco_jax":
        return rest in ([], ["--version"]) or check_command(rest[0], rest[1:])
    if module == MAIN:
        return check_main(rest)
    check_flags_of(source(module), rest)


def check_main(argv):
    check_config_flags(MAIN, argv)


def config_of(text):
    """The config of a training that a page shows."""
    ((_, _, module, *argv),) = documents.programs(text)
    return check_config_flags(module, argv)


def check_pod(argv):
    text = (ROOT / "launch/tpu_pod.sh").read_text()
    own, ours = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    taken = set(re.findall(r"(--[a-z-]+)(?==\*| \||\))", text))
    assert {word.partition("=")[0] for word in own} <= taken
    check_main(ours)


def check_sbatch(argv):
    script = argv.index("launch/slurm.sh")
    assert (ROOT / argv[script]).is_file()
    check_main(argv[script + 1 :])


def check_docker(argv):
    if argv[0] == "build":
        taken = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        given = [word for before, word in itertools.pairwise(argv) if "-arg" in before]
        assert {word.partition("=")[0] for word in given} <= set(taken)
    elif "--entrypoint" in argv:
        check_python([word for word in argv[argv.index("-m") :] if word != "..."])
    elif argv[0] == "run":
        check_main([word for word in argv if word.startswith(("--config", "--workdir"))])


def check_pip(argv):
    there = re.findall(r'^        "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE)
    wanted = [x for word in argv for x in re.findall(r"^(?:\.|moco_jax)\[([\w,]+)\]", word)]
    assert {extra for names in wanted for extra in names.split(",")} <= set(there)


def check_make(argv):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(argv) <= set(targets)


def check_kubectl(argv):
    assert (ROOT / argv[argv.index("-f") + 1]).is_file()


PROGRAMS = {
    "python": check_python, "launch/tpu_pod.sh": check_pod, "sbatch": check_sbatch,
    "docker": check_docker, "pip": check_pip, "make": check_make, "kubectl": check_kubectl,
    "tfds": lambda argv: None,
}  # fmt: skip


def check(shown):
    if shown.synopsis:
        name = re.match(r"python -m moco_jax (\w+)", shown.text)[1]
        parser = importlib.import_module(f"moco_jax.commands.{name}").parser()
        assert set(re.findall(r"--\w+", shown.text)) <= parser._option_string_actions.keys()
        return
    if shown.text.startswith("--config."):
        names = re.findall(r"--config\.([\w.]+)(?==| |$)", shown.text)
        assert set(names) - {"NAME"} <= flat(default().to_dict()).keys()
        return
    for program, *argv in documents.programs(shown.text):
        assert program in PROGRAMS, f"{program!r}: how to check it?"
        PROGRAMS[program](argv)
