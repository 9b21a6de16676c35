"""Libraries that only a part needs: not imported by training, and named where they are missing."""

import ast
import importlib.metadata
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from packaging import requirements

from moco_jax import extras, files, report
from moco_jax.data.source import open_source
from moco_jax.detection import masks
from moco_jax.evals import featurefile
from tests import runs

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = (
    "array_record", "datasets", "gcsfs", "jax2onnx", "jinja2", "onnxruntime", "plotly", "pyarrow",
    "pycocotools", "s3fs", "sklearn", "tensorboardX", "tensorflow_datasets", "torch", "wandb",
)  # fmt: skip


def test_training_imports_none_of_them():
    program = f"import sys, moco_jax.training.loop; print(*({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT, check=True)  # fmt: skip
    assert done.stdout.split() == []


def test_an_extra_is_installed_by_the_names_of_its_libraries(monkeypatch):
    """For this package is on no index."""
    lists = ["numpy>=2", 'plotly<8,>=6; extra == "report"', 'jinja2; extra == "report"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lists)
    assert extras.installation("report") == "pip install 'plotly<8,>=6' jinja2"
    assert extras.installation("hf") == "pip install '.[hf]' in the repository"


def a_report(path):
    report.write(runs.write_run(path / "run"))


def a_mask(path):
    masks.encode(np.ones((2, 2), bool))


def a_parquet_file(path):
    featurefile.check_out(path / "features.parquet")


@pytest.mark.parametrize(
    ("library", "module", "use", "message"),
    [
        ("plotly", "report.page", a_report, r"report.html needs .*'plotly.*: pip install"),
        ("jinja2", "report.page", a_report, r"needs the library 'jinja2': pip install"),
        ("pycocotools", "", a_mask, r"masks of objects needs .*'pycocotools': pip .*(detec|coco)"),
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


def provided(requirement, seen):
    """The distributions that a requirement installs, those that these need among them."""
    found = requirements.Requirement(requirement)
    for extra in found.extras or {""}:
        if (found.name, extra) not in seen:
            seen.add((found.name, extra))
            for needed in importlib.metadata.requires(found.name) or ():
                marker = requirements.Requirement(needed).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    provided(needed, seen)
    return {name for name, _ in seen}


def imported(file):
    """The packages that a module imports when it is imported."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", ["unit", "smoke", "faults"])
def test_tests_import_what_the_extra_test_installs(folder):
    """And not what this machine has besides."""
    own = {"moco_jax", "tests", "configs", "benchmarks", "launch"} | sys.stdlib_module_names
    names = {name for file in (ROOT / "tests" / folder).glob("*.py") for name in imported(file)}
    there = {name.lower().replace("-", "_") for name in provided("moco_jax[test]", set())}
    homes = importlib.metadata.packages_distributions()
    for name in sorted(names - own):
        assert {home.lower().replace("-", "_") for home in homes.get(name, ())} & there, name
