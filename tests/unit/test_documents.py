"""What the pages show is there: programs, flags, configs with their arguments, options, targets."""

import re

import pytest

from moco_jax.errors import WrongInputError
from moco_jax.evals import knn_options
from tests import commands, documents
from tests.documents import ROOT

SHOWN = documents.commands()
TEXTS = ("", ".py", ".sh", ".yaml", ".yml", ".ipynb")


@pytest.mark.parametrize("shown", SHOWN, ids=[f"{s.where}: {s.text[:60]}" for s in SHOWN])
def test_a_command(shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands.check(shown)


@pytest.mark.parametrize(
    "text",
    [
        "python -m moco_jax neighbours --checkpoint=RUN",
        "python -m moco_jax knn --checkpoint=RUN --kk=5",
        "python -m moco_jax plan --config=configs/v3_vit.py:b16 --topologie=v4:2x2x2",
        "python -m moco_jax preview --config=configs/v2_r50.py:900",
        "python -m moco_jax study configs/study/momentum.py:demi --workdir=DIR",
        "python -m moco_jax configs v3_vit:b61",
        "python -m moco_jax.main --config=configs/v9.py --workdir=DIR",
        "python -m moco_jax.main --config=configs/demo.py --workdir=DIR --config.data.batchsize=1",
        "python -m moco_jax.main --config=configs/demo.py --workdir=DIR --config.epochs=-1",
        "python -m moco_jax.main --config=configs/demo.py --workdir=D --config.data.batch_size=48",
        "python -m benchmarks.step --config=... --pear",
        "python launch/local.py -n 4 -- --config=configs/demo.py --workdirr=DIR",
        "launch/tpu_pod.sh --nme=moco -- --config=... --workdir=...",
        "sbatch --nodes=4 launch/slurm.sh --config=configs/v3_vit.py:x --workdir=DIR",
        "docker build --build-arg DEVISE=cuda .",
        "docker run IMAGE --config=configs/v3_vit.py:x --workdir=DIR",
        "pip install -e '.[all,cudda]'",
        "make demos",
        "kubectl apply -f launch/kubernets.yaml",
        "--config.data.test_shares=0.2",
        "python -m moco_jax convert SRC DST [--too FORMAT]",
        "rm -r runs",
    ],
)
def test_what_is_not_there_is_found(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, WrongInputError, SystemExit)):
        commands.check(documents.Shown("", text, "[--" in text))


def test_your_own_images_by_the_rules_of_the_code():
    """The table says what its commands set, and what follows for so many images."""
    page = (ROOT / "docs/own_images.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", page, re.MULTILINE))
    table = {name: text.replace(",", "").split(" | ") for name, text in rows.items()}
    shown = [s for s in SHOWN if re.search(r"--workdir=runs/mine_\d+k ", s.text)]
    counts = [int(n) for n in table["images"]]
    assert len(counts) == len(shown) == 3
    for column, (images, command) in enumerate(zip(counts, shown, strict=True)):
        c = commands.config_of(command.text)
        t, told = c.method, {name: values[column] for name, values in table.items()}
        assert float(told["`epochs`"]) == c.epochs
        assert int(told["`data.batch_size`"]) == c.data.batch_size
        assert (int(told["`method.queue_size`"]), float(told["`method.ema`"])) == (
            t.queue_size,
            t.ema,
        )
        assert int(told["steps in all"]) == c.epochs * images / c.data.batch_size
        assert int(told["k of kNN, where there are labels"]) == knn_options.default_k(images)
        assert c.data.batch_size <= t.queue_size <= images // 4
        assert c.model.name in told["network, from nothing"]


def squeezed(text):
    return "".join(text.split())


def test_how_it_works_quotes_the_code():
    page = ROOT / "docs/how_it_works.md"
    quoted = [
        (language.partition("source=")[2], block) for language, block in documents.blocks(page)
    ]
    for section in page.read_text().split("\n## ")[1:]:
        file = re.search(r"\]\(\.\./(moco_jax/.*?\.py)\)", section)[1]
        quoted += [(file, line) for line in re.findall(r"^\| .* \| `(.*)` \|$", section, re.M)]
    assert len(quoted) == 18
    for file, text in quoted:
        assert squeezed(text) in squeezed((ROOT / file).read_text()), f"not in {file}: {text}"


def test_pages_that_the_code_names_are_there():
    folders = ("moco_jax", "benchmarks", "configs", "launch", "tests", "notebooks")
    files = [ROOT / name for name in ("setup.py", "Makefile", "mkdocs.yml", ".ci/run")]
    files += [file for folder in folders for file in (ROOT / folder).rglob("*.*")]
    texts = {file: file.read_text() for file in files if file.suffix in TEXTS}
    named = {name for text in texts.values() for name in re.findall(r"docs/\w+\.md", text)}
    assert {"docs/data.md", "docs/launch.md"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
