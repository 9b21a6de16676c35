"""Libraries that only a part needs: not imported by training, and named where they are missing."""

import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

from moco_jax import extras, files, report
from moco_jax.data.source import open_source
from moco_jax.evals import featurefile
from tests import runs

HEAVY = (
    "array_record", "datasets", "gcsfs", "jinja2", "plotly", "pyarrow", "s3fs", "sklearn",
    "tensorboardX", "tensorflow_datasets", "torch",
)  # fmt: skip


def test_training_imports_none_of_them():
    program = f"import sys, moco_jax.training.loop; print(*({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=pathlib.Path(__file__).parents[2], check=True)  # fmt: skip
    assert done.stdout.split() == []


def test_an_extra_is_installed_by_the_names_of_its_libraries(monkeypatch):
    """For this package is on no index."""
    lists = ["numpy>=2", 'plotly<8,>=6; extra == "report"', 'jinja2; extra == "report"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lists)
    assert extras.installation("report") == "pip install 'plotly<8,>=6' jinja2"
    assert extras.installation("hf") == "pip install '.[hf]' in the repository"


def a_report(path):
    report.write(runs.write_run(path / "run"))


def a_parquet_file(path):
    featurefile.check_out(path / "features.parquet")


@pytest.mark.parametrize(
    ("library", "module", "use", "message"),
    [
        ("plotly", "report.page", a_report, r"report.html needs .*'plotly.*: pip install"),
        ("jinja2", "report.page", a_report, r"needs the library 'jinja2': pip install"),
        ("pyarrow", "", a_parquet_file, r"parquet needs .*'pyarrow': .*pip install 'pyarrow"),
        (
            "tensorflow_datasets", "data.tfds", lambda _: open_source("tfds:mnist"),
            r"data.source='tfds:...' needs .*'tensorflow_datasets': pip .*(tfds|tensorflow)",
        ),
        (
            "datasets", "", lambda _: open_source("hf:mnist"),
            r"data.source='hf:...' needs .*'datasets': .*pip install 'datasets",
        ),
        (
            "gcsfs", "", lambda _: files.prepare_workdir("gs://bucket/run"),
            r"gs:// needs the library '(aiohttp|gcsfs)': pip install .*gcs",
        ),
        (
            "s3fs", "", lambda _: files.prepare_workdir("s3://bucket/run"),
            r"s3:// needs the library 's3fs': pip install .*s3",
        ),
    ],
)  # fmt: skip
def test_a_missing_one_says_which_extra(library, module, use, message, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    if module:
        monkeypatch.delitem(sys.modules, f"moco_jax.{module}", raising=False)
        room, _, name = module.partition(".")
        monkeypatch.delattr(sys.modules[f"moco_jax.{room}"], name, raising=False)
    with pytest.raises(ValueError, match=message):
        use(tmp_path)
