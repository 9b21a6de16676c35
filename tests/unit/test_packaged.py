"""The recipes that the package brings: found, listed, shown, copied; their arguments told truly."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest

from moco_jax import __version__
from moco_jax.commands import arguments, configs, members, packaged
from moco_jax.errors import InputError, MissingError
from tests.unit.test_arguments import parse

NAMES = [name.removesuffix(".py") for name in packaged.files()]


def get_config(name):
    return importlib.import_module(f"configs.{name}").get_config


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_in_a_docstring_are_those_that_there_are(name):
    told = set(packaged.arguments(packaged.description(packaged.files()[f"{name}.py"])))
    for argument in told:
        get_config(name)(argument)
    try:
        get_config(name)("nothing")
    except InputError as error:
        known = re.search("is not one of (.*?)(;|$)", str(error))[1].split(", ")
        assert told >= {
            x for x in known if x not in ("short", "200")
        }  # what no argument stands for
    except TypeError:
        assert not told


def test_a_config_that_is_not_here_is_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in (["--config=configs/v3_vit.py:b16"], ["--config", "./configs/v3_vit.py:b16"]):
        assert parse(*argv, "--config.seed=3").model.name == "vit_base"
    assert packaged.described(packaged.find("configs/demo.py")).endswith(", of the package")
    (tmp_path / "configs").mkdir()
    own = "from configs import demo\ndef get_config():\n  c = demo.get_config()\n  c.seed = 7\n"
    (tmp_path / "configs/v3_vit.py").write_text(f"{own}  return c\n")
    assert parse("--config=configs/v3_vit.py").seed == 7
    assert packaged.described("configs/v3_vit.py") == "configs/v3_vit.py"
    with pytest.raises(
        MissingError, match=r"there is no such file; did you mean 'configs/demo.py'"
    ):
        parse("--config=configs/demoo.py")
    with pytest.raises(MissingError, match="there is no such file"):
        parse("--config=elsewhere/demo.py")


def test_a_study_that_is_not_here_is_the_packages(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "moco_jax"):
        assert members.load("configs/study/momentum.py", "demo").seeds == (0, 1)
    assert "configs/study/momentum.py:demo, of the package" in caplog.text
    with pytest.raises(MissingError, match=r"did you mean 'configs/study/position.py'"):
        members.load("configs/study/positions.py", "")
    (tmp_path / "configs/study").mkdir(parents=True)
    own = "from moco_jax.studies import Study\nget_study = lambda: Study([], (7,))\n"
    (tmp_path / "configs/study/momentum.py").write_text(own)
    assert members.load("configs/study/momentum.py", "").seeds == (7,)
    with pytest.raises(MissingError, match=r"there is no such file$"):
        members.load("elsewhere/configs/study/momentum.py", "")


def test_a_folder_of_ones_own_comes_first_in_imports(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.py").write_text("x = 7")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    packaged.make_importable()
    found = importlib.import_module("configs")
    assert found.__path__ == [str(tmp_path / "configs"), str(packaged.folder())]


def test_the_command(tmp_path, capsys, monkeypatch):
    assert configs.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"configs/{name}.py" in text for name in NAMES)
    assert ":s16 :b16 :l16" in text
    assert configs.main(["v3_vit:b16"]) == 0
    text = capsys.readouterr().out
    shown = [line.strip() for line in text.splitlines() if line.startswith("  --config.")]
    assert "--config.data.view1.crop_area='(0.08, 1.0)'" in shown
    monkeypatch.chdir(tmp_path)
    again = parse("--config=configs/v3_vit.py:b16", *shlex.split(" ".join(shown)))
    assert again == parse("--config=configs/v3_vit.py:b16")
    assert configs.main(["demo", "--copy=mine/first.py"]) == 0
    assert parse("--config=mine/first.py") == get_config("demo")()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["v3_vitt"], "did you mean 'v3_vit'"),
        (["v3_vit:b61"], "did you mean 'b16'"),
        (["fashion_vit:x"], "takes no argument"),
        (["--copy=x.py"], "name the config to copy"),
        (["demo", "--copy=there.py"], "there.py exists"),
    ],
)
def test_what_is_refused(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("")
    assert configs.main(argv) == 2
    assert message in capsys.readouterr().err


def test_arguments_are_left_as_they_are():
    argv = ["program", "--workdir=configs/demo.py", "--config=x.py:configs/demo.py"]
    assert arguments._with_packaged(argv) == argv


@pytest.mark.parametrize("module", ["moco_jax", "moco_jax.main"])
def test_help_names_the_configs_and_version_the_versions(module):
    def say(flag):
        command = [sys.executable, "-m", module, flag]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert say("--version").startswith(f"moco_jax {__version__} (jax ")
    text = say("--help")
    assert "configs NAME:ARGUMENT shows one" in text or "configs  " in text
    assert module == "moco_jax" or ("configs/v3_vit.py" in text and "--workdir" in text)
