"""Boxes on BCCD by configs/detection.py:bccd_demo: from scratch, from MoCo v2, and torchvision's.

    python -m benchmarks.detection --images=BCCD --arms scratch moco_v2 torchvision
    python -m benchmarks.detection --images=BCCD --arms scratch --tune 0.64 1.92

MoCo v2 is pre-trained on the pixels of the very images that are trained on, 292 of 364. --tune
trains on the part `train` and tests on the part `val`, so that the test images choose no rate. The
peer is torchvision's Faster R-CNN with a backbone, pyramid and head of the same size, trained as
long by the same optimizer and rate; its detections are scored as ours. Whatever is complete in the
workdir is not done again.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Sequence

from benchmarks.evaluated import cpu_seconds, evaluated
from configs import detection, v2_r50
from moco_jax.config import ConfigDict
from moco_jax.detection import protocol
from moco_jax.detection.annotated import open_annotated
from moco_jax.main import set_up_logging
from moco_jax.training import loop

PRETRAINED, PEER = "moco_v2", "torchvision"
ARMS = ("scratch", PRETRAINED, PEER)
METRICS = ("AP50", "AP", "AP75")


def recipe(images: pathlib.Path, seed: int, rate: float) -> ConfigDict:
    """The demonstration, at one rate."""
    c = detection.get_config("bccd_demo")
    c.data.source, c.seed, c.optim.base_lr = f"voc:{images}", seed, rate
    c.log.tensorboard = False
    return c


def pretraining(folder: pathlib.Path, seed: int, epochs: float) -> ConfigDict:
    """MoCo v2 of the detector's ResNet on few images; see docs/own_images.md."""
    c = v2_r50.get_config()
    c.epochs, c.seed = epochs, seed
    c.data.update(source=f"folder:{folder}", batch_size=64, image_size=96)
    c.model.name = "resnet18"
    c.model.resnet.width = 0.25
    c.method.update(temperature=0.1, ema=0.99, queue_size=192)
    c.method.projector.hidden = 0
    c.optim.update(base_lr=0.2, weight_decay=5e-4)
    c.knn.every_epochs, c.evals.names = 0.0, ()
    c.log.update(every_steps=100, tensorboard=False)
    c.checkpoint.every_steps = 500
    return c


def linked(source: str, folder: pathlib.Path) -> pathlib.Path:
    """A folder with the images that a detector is trained on, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in open_annotated(source).train.for_training().images:
        link = folder / pathlib.Path(image.path).name
        if not link.exists():
            os.symlink(os.path.abspath(image.path), link)
    return folder


def without_test(images: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """The data set with the lists `train` and `val` alone, so that `val` is the test part."""
    lists = pathlib.Path("ImageSets/Main")
    (copy / lists).mkdir(parents=True, exist_ok=True)
    for name in ("Annotations", "JPEGImages"):
        if not (copy / name).exists():
            os.symlink(os.path.abspath(images / name), copy / name)
    for name in ("train.txt", "val.txt"):
        (copy / lists / name).write_text((images / lists / name).read_text())
    return copy


def average_precisions(name: str, c: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """In [0, 1], at the end of a training."""
    if name == PEER:
        from benchmarks import torch_detection  # PyTorch is not needed for the others

        return torch_detection.measure(c)
    return evaluated(c, workdir, "detection", protocol.build)["metrics"]


def arm(name: str, flags: argparse.Namespace, seed: int) -> dict[str, float]:
    """Average precisions of one training, and what it cost."""
    c, start = recipe(flags.images, seed, flags.rate), 0.0
    if name == PRETRAINED:
        pixels = linked(c.data.source, flags.workdir / "pixels")
        c.init, begin = str(flags.workdir / f"pretrained-{seed}"), cpu_seconds()
        if loop.run(pretraining(pixels, seed, flags.pretraining_epochs), pathlib.Path(c.init)):
            raise SystemExit("stopped; the same command goes on")
        start = cpu_seconds() - begin
    begin = cpu_seconds()
    row = average_precisions(name, c, flags.workdir / f"{name}-{seed}-run")
    return row | {"cpu_seconds": cpu_seconds() - begin, "pretraining_cpu_seconds": start}


def measured(name: str, flags: argparse.Namespace, seed: int) -> dict[str, float]:
    """The row of `arm`, or what the workdir has of it."""
    path = flags.workdir / f"{name}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(arm(name, flags, seed)) + "\n")
    row = json.loads(path.read_text())
    print(f"{name}, seed {seed}: {row}", flush=True)
    return row


def table(rows: dict[str, Sequence[dict[str, float]]]) -> str:
    """Mean and deviation over the seeds, in percent, and CPU seconds of a training."""
    lines = [f"| from | {' | '.join(METRICS)} | seeds | CPU s |", "|---|---|---|---|---|---|"]
    for name, own in rows.items():
        cells = [_spread([100 * row[metric] for row in own]) for metric in METRICS]
        cost = statistics.mean(row["cpu_seconds"] for row in own)
        lines.append(f"| {name} | {' | '.join(cells)} | {len(own)} | {cost:.0f} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    deviation = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def tune(flags: argparse.Namespace) -> None:
    """Average precisions on `val` of each rate, from random weights."""
    images = without_test(flags.images, flags.workdir / "without_test")
    for name, rate in itertools.product(flags.arms, flags.tune):
        if name == PRETRAINED:
            continue
        c = recipe(images, 0, rate)
        c.detection.every_epochs = 0.0
        row = average_precisions(name, c, flags.workdir / f"tune-{name}-{rate:g}")
        print(f"{name}, base_lr {rate:g}, val: " + ", ".join(f"{k} {row[k]:.1%}" for k in METRICS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, default="BCCD", help="the VOC folder")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/detection")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS[:2], choices=ARMS)
    parser.add_argument("--pretraining_epochs", type=float, default=200.0)
    base = detection.get_config("bccd_demo").optim.base_lr
    parser.add_argument("--rate", type=float, default=base, help="optim.base_lr")
    parser.add_argument("--tune", type=float, nargs="+", default=(), help="rates to try, alone")
    flags = parser.parse_args()
    set_up_logging()
    if flags.tune:
        return tune(flags)
    rows = {name: [measured(name, flags, seed) for seed in flags.seeds] for name in flags.arms}
    print(table(rows))


if __name__ == "__main__":
    main()
