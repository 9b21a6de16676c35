"""What is wrong in flags and config files is one line, and only wrong input has exit code 2."""

import errno
import pathlib
import re
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from launch import local
from moco_jax import errors
from moco_jax.commands import arguments, terminal

ROOT = pathlib.Path(__file__).parents[2]
V2, V3 = (str(ROOT / "configs" / name) for name in ("v2_r50.py", "v3_vit.py"))


def parse(*argv):
    sys.modules.pop("config_config", None)  # what the file before has defined
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.mark_flag_as_required("config", flag_values=values)
    arguments.parse(values, ["program", *argv])
    return values["config"].value


def test_what_is_right_is_parsed():
    assert parse(f"--config={V3}:s16", "--config.seed=3").seed == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--config.optimm.x=1"],
            "--config.optimm.x=1: there is no 'optimm'; did you mean 'optim'",
        ),
        (["--config.optim.base_lrr=1"], "=1: there is no 'base_lrr'; did you mean 'base_lr'?"),
        (["--config.zzzz=1"], "--config.zzzz=1: there is no such option"),
        (["--config.seed.x=1"], "--config.seed.x=1: there is no such option"),
        (["--config.seed=1.5"], "--config.seed=1.5: invalid literal"),
        (["--config.optim=3"], "--config.optim=3: .*not a dict"),
        (["--config.log.tensorboard=maybe"], "tensorboard=maybe: Non-boolean argument"),
        (["--workdirr=x"], "Unknown command line flag 'workdirr'. Did you mean: workdir"),
        (["more"], "unexpected arguments: more"),
    ],
)
def test_a_wrong_argument_is_one_line(argv, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        parse(f"--config={V2}", *argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "line 1: SyntaxError: "),
        ("\nimport nothing_there", "line 2: ModuleNotFoundError: No module named 'nothing_there'"),
        ("def get_config():\n  return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("def get_config():\n  return float('x')", "line 2: ValueError: could not convert"),
        ("from configs import v2_r50\ndef get_config():\n  c = v2_r50.get_config()\n"
         "  c.optim.base_lrr = 1", "line 4: AttributeError: .*did you mean 'base_lr'"),
        ("from moco_jax.config import choose\ndef get_config():\n  choose('x', 'aa', ['ab'])",
         "x='aa' is not one of ab; did you mean 'ab'"),
        ("def get_config():\n  return 3", "get_config.. gives int, expected a ConfigDict"),
        ("x = 1", "has no attribute 'get_config'"),
        ("open('/nowhere/file')", "No such file or directory: '/nowhere/file'"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_a_config_file_is_one_line_with_its_place(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(errors.InputError, match=message) as caught:
        parse(f"--config={file}")
    assert "\n" not in str(caught.value)


def test_the_argument_of_a_config_file(tmp_path):
    with pytest.raises(errors.InputError, match=r"^variant='S16' is not .* did you mean 's16'\?$"):
        parse(f"--config={V3}:S16")
    (tmp_path / "mine.py").write_text("def get_config():\n  return 3")
    with pytest.raises(errors.InputError, match="takes 0 positional arguments"):
        parse(f"--config={tmp_path}/mine.py:short")


def test_a_config_file_that_is_not_there(tmp_path):
    with pytest.raises(errors.MissingError, match=r"v2_r5O.py: .*did you mean '.*/v2_r50.py'"):
        parse(f"--config={V2.replace('r50', 'r5O')}")
    with pytest.raises(errors.InputError, match="cannot be read: Is a directory"):
        parse("--config", str(tmp_path))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of the disk"), MemoryError()])
def test_trouble_of_the_machine_stays_what_it_is(error, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import builtins\nraise builtins.trouble")
    monkeypatch.setattr("builtins.trouble", error, raising=False)
    with pytest.raises((OSError, MemoryError)) as caught:
        parse(f"--config={tmp_path}/mine.py")
    assert not isinstance(caught.value, errors.WrongInputError)


@pytest.mark.parametrize("kind", [errors.InputError, errors.MissingError, errors.CheckpointError])
def test_wrong_input_ends_a_command_with_2(kind, capsys):
    def main():
        raise kind("this is wrong")

    assert terminal.guarded(main) == errors.EXIT_WRONG_INPUT
    assert capsys.readouterr().err == "ERROR: this is wrong\n"


@pytest.mark.parametrize("kind", [ValueError, OSError, FileNotFoundError, RuntimeError, KeyError])
def test_an_error_of_a_library_or_the_machine_keeps_its_traceback(kind):
    def main():
        raise kind("RESOURCE_EXHAUSTED: no space left on device")

    with pytest.raises(kind):
        terminal.guarded(main)
    assert errors.exit_code(kind("")) == errors.EXIT_FAILED


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    terminal.check_writable(tmp_path / "new" / "folder" / "out.npz")
    for path in (tmp_path, tmp_path / "file" / "out.npz"):
        with pytest.raises(errors.InputError, match="cannot be written"):
            terminal.check_writable(path)


def test_documents_and_launchers_agree_on_the_codes():
    row = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)
    page = (ROOT / "docs/launch.md").read_text()
    table = {int(code): does for code, _, does in row.findall(page)}
    said = {int(code): again for code, _, again in row.findall(errors.__doc__)}
    assert table.keys() == said.keys() == {0, 1, 2, 3, 75}
    final = {code for code, again in said.items() if again == "fails again"}
    assert final == {errors.EXIT_WRONG_INPUT, errors.EXIT_DIVERGED} == set(local.FINAL)
    assert {code for code, does in table.items() if "fail again" in does} == final
    for name in ("kubernetes.yaml", "kubernetes_tpu.yaml"):
        rules = (ROOT / "launch" / name).read_text()
        assert re.findall(r"values: \[(.+)\]", rules) == ["2, 3", str(errors.EXIT_RESTART)]
    for name in ("tpu_pod.sh", "slurm.sh"):
        (ends,) = re.findall(
            r"^ +([\d |]+)\) (?:end|exit)", (ROOT / "launch" / name).read_text(), re.M
        )
        assert set(map(int, ends.split("|"))) == final | {0}
