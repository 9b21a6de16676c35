"""Commands that the pages show, run at a tiny size in a folder that has what they name."""

import dataclasses
import pathlib
import re
import shlex
import shutil
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict, config_flags
from PIL import Image

from moco_jax import __main__ as program
from moco_jax.cost import rehearsal
from moco_jax.data import arrays
from moco_jax.data.source import Splits
from moco_jax.training import loop, own_run
from tests import commands, documents
from tests.documents import ROOT, Shown

# What no test here runs, and why. Whatever matches none of these is run.
NOT_RUN = {
    r"pip |tfds |docker |TFDS_DATA_DIR=": "it downloads",
    r"sbatch |launch/tpu_pod\.sh|kubectl ": "it needs a cluster: make slurm, make kubernetes",
    r"python launch/local\.py": "each of its programs compiles for itself: make processes",
    r".*gs://": "it needs a bucket: make buckets",
    r"make (?!demo)": "it runs tests",
    r"python -m moco_jax plan ": "it needs the TPU compiler: make tpu",
    r"python -m benchmarks\.": "it measures, for minutes to hours: tests/smoke/test_benchmarks.py",
    r".*\.onnx$": "it needs the extra onnx: make parity",
    r"--config\.": "an option alone; it is parsed",
    r"python -m moco_jax( preview)?$": "a name alone",
    r".*\[--": "a synopsis; its flags are looked up",
}
PAGES_NOT_RUN = {"docs/detection.md": "it needs data sets that are not there, and many minutes"}
NAMES = {
    "/path/to/images": "images", "PATH": "images", "IMAGE": "photo.jpg", "RUN": "runs/mine",
    "DIR": "runs/dir", "FILE": "moco_v2_800ep_pretrain.pth.tar",
}  # fmt: skip
PLACES = re.compile(r"(?<![\w/])(?:runs/(?:mine|demo)|photo\.jpg|moco_v2\w+\.pth\.tar)(?![\w/])")
STEPS, EMBEDDED = 3, (2000, 200)
MINE = "python -m moco_jax.main --config=configs/v2_r50.py --workdir={} --config.data.source={}"
DEMO = "python -m moco_jax.main --config=configs/demo.py --workdir={}"


def reason(shown: Shown) -> str | None:
    """Why a command is not run; None: it is."""
    if shown.where in PAGES_NOT_RUN:
        return PAGES_NOT_RUN[shown.where]
    return next((why for what, why in NOT_RUN.items() if re.match(what, shown.text)), None)


def write_images(folder: pathlib.Path) -> None:
    """Images of two classes for training and test, striped one way or the other."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for axis, name in enumerate(("across", "along")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                wave = 90 * np.sin(np.arange(40) * rng.uniform(0.5, 1.5))
                levels = 128 + (wave[:, None] if axis else wave) + rng.normal(0, 9, (40, 40))
                image = Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
                image.save(folder / split / name / f"{number}.jpg")


def open_embedded(*_: object) -> Splits:
    """The first of the embedded images, for training and test."""
    return Splits(*(
        dataclasses.replace(part, images=part.images[:count], labels=part.labels[:count])
        for part, count in zip(arrays.open_embedded(), EMBEDDED, strict=True)
    ))  # fmt: skip


def smaller(c: ConfigDict) -> list[str]:
    """What makes a training one of a few small steps; all else stays as it is shown."""
    own = c.data.source != "embedded"
    batch, images = 16, 64 if own else EMBEDDED[0] * c.data.label_share
    values = {
        "epochs": STEPS * batch / images, "optim.warmup_epochs": 0, "data.batch_size": batch,
        "data.eval_batch_size": 64, "data.threads": 2, "model.resnet.width": 0.125,
    }  # fmt: skip
    if c.protocol != "supervised":
        values |= {"method.bn_group_size": 8, "method.queue_size": 2 * batch}
        values["evals.names"] = ("knn", "rank_me")  # one program less to compile
    if own:
        values |= {"model.name": "resnet18", "data.image_size": 32}
    return [f"--config.{name}={value}" for name, value in values.items()]


class Folder:
    """Where the commands of a page are run, one after the other, as a reader would.

    What a page takes for granted (images, a run, a file of others) comes when it is first named.

    Args:
      path: of the folder; it is the current one.
      kept: where what is given is made once for all pages.
    """

    def __init__(self, path: pathlib.Path, kept: pathlib.Path):
        self.path, self._kept = path, kept
        for name in ("configs", "launch"):
            (path / name).symlink_to(ROOT / name)
        (path / "images").symlink_to(self._made("images"))
        for name in ("a.jpg", "b.jpg", "photo.jpg"):
            shutil.copy(path / "images/val/along/0.jpg", path / name)

    def perform(self, text: str) -> None:
        """Runs a line of commands, each of which must succeed.

        Raises:
          AssertionError: one did not.
        """
        text = text.replace("--config=...", "--config=configs/demo.py")
        for name, there in NAMES.items():
            text = re.sub(rf"(?<![\w/]){name}\b", there, text)
        for place in PLACES.findall(text):
            if not (self.path / place).exists() and f"--workdir={place}" not in text.split():
                self._give(place)
        for words in documents.programs(text):
            if words[0] == "make":
                words = _of_target(words[1])
            assert self._run(words) == 0, shlex.join(words)

    def execute(self, code: str) -> dict[str, object]:
        """Runs a block of Python; what it has defined."""
        for place in PLACES.findall(code):
            self._give(place)
        names: dict[str, object] = {}
        exec(compile(code, "block", "exec"), names)
        return names

    def _give(self, place: str) -> None:
        target, made = self.path / place, self._made(place)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if made.is_dir() else shutil.copy)(made, target)

    def _made(self, name: str) -> pathlib.Path:
        made = self._kept / name
        if made.exists():
            return made
        made.parent.mkdir(exist_ok=True)
        if name == "images":
            write_images(made)
        elif name.startswith("runs/"):
            line = DEMO if name.endswith("demo") else MINE
            self.train(line.format(made, f"folder:{self._made('images')}").split()[3:])
        else:
            assert program.main(["convert", str(self._made("runs/mine")), str(made)]) == 0
        return made

    def _run(self, words: Sequence[str]) -> int:
        assert words[0] == "python", f"{words[0]!r}: how to run it? Or why not (NOT_RUN)?"
        _, _, module, *argv = words
        if module == commands.MAIN:
            return self.train(argv)
        if argv[0] == "study":
            argv += ["--part=1/99", "--seeds=0"]  # what makes them small comes with each member
        elif argv[0] == "preview":
            argv += ["--config.data.threads=2"]
        return program.main([word for word in argv if word != "..."])

    def train(self, argv: Sequence[str]) -> int:
        """As moco_jax.main, in this process."""
        flags = commands.parsed(commands.MAIN, [*argv, *smaller(_config(argv))])
        c = flags["config"].value
        own_run.take(c, config_flags.get_override_values(flags["config"]))
        if flags["dry_run"].value:
            return not rehearsal.rehearse(c, flags["workdir"].value)
        return loop.run(c, flags["workdir"].value)


def _config(argv: Sequence[str]) -> ConfigDict:
    return commands.parsed(commands.MAIN, argv)["config"].value


def _of_target(name: str) -> list[str]:
    (line,) = re.findall(rf"^{name}:.*\n\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.M)
    return shlex.split(line)
