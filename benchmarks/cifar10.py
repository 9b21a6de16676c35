"""MoCo v2, v3, SimCLR, BYOL and SwAV on CIFAR-10 for equal images seen, and v2 in plain PyTorch.

    python -m benchmarks.cifar10 --images=cifar10 --workdir=runs/cifar10 --seeds=2 --peer

Each is its `:cifar10` recipe at a size for 2 CPU cores: ResNet-18 of a quarter of the width with
ImageNet's stem, batches of 128, as many epochs for all, and the demonstration's rate. Backbone
features, kNN with k = 200 and T = 0.1 on all images, linear probe on features made once. Whatever
is complete in the workdir is not done again.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Callable

from benchmarks.evaluated import cpu_seconds, evaluated
from configs import byol, linear, simclr, swav, v2_r18_cifar10, v3_r50
from moco_jax import results
from moco_jax.commands import knn
from moco_jax.config import ConfigDict
from moco_jax.main import set_up_logging
from moco_jax.training import loop

METHODS: dict[str, Callable[[], ConfigDict]] = {
    "moco_v2": v2_r18_cifar10.get_config,
    "moco_v3": lambda: v3_r50.get_config("cifar10"),
    "simclr": lambda: simclr.get_config("cifar10"),
    "byol": lambda: byol.get_config("cifar10"),
    "swav": lambda: swav.get_config("cifar10"),
}
PEER = "torch"
BATCH = 128
# The recipes' 0.03 is for 200 epochs of batches of 512; the demonstration's rate is 0.2.
FASTER = 0.2 / 0.03


def recipe(method: str, source: str, epochs: float, seed: int) -> ConfigDict:
    """A method's `:cifar10` recipe at the size of this benchmark."""
    c = METHODS[method]()
    c.epochs, c.seed = epochs, seed
    c.data.update(source=source, batch_size=BATCH)
    c.model.resnet.update(width=0.25, stem="imagenet", zero_init_residual=True)
    if c.method.bn_group_size:
        c.method.bn_group_size = 32
    c.optim.base_lr *= FASTER
    if method == "swav":  # as the demonstration: prototypes fewer than the batch, without a queue
        c.method.queue_size = 0
        c.method.swav.update(prototypes=100, epsilon=0.02)
    c.knn.every_epochs, c.evals.names = 0.0, ()
    c.log.update(every_steps=50, tensorboard=False)
    return c


def trained(c: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains; what it cost."""
    begin = cpu_seconds()
    if loop.run(c, workdir):
        raise SystemExit("stopped; the same command goes on")
    cost = cpu_seconds() - begin
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return {"cpu_seconds": cost, "images_per_second": statistics.median(rates)}


def knn_top1(
    checkpoint: pathlib.Path, c: ConfigDict, out: pathlib.Path, floors: bool
) -> dict[str, float]:
    """Accuracy of kNN with a checkpoint's encoder; `floors`: the untrained one and raw pixels."""
    flags = [f"--checkpoint={checkpoint}", f"--data={c.data.source}", f"--out={out}"]
    flags += ["--k=200", "--temperature=0.1", "--image_size=32", "--crop_share=1"]
    flags += [f"--{name}=" + ",".join(map(str, c.data[name])) for name in ("mean", "std")]
    flags.append("--floors" if floors else "--no-floors")
    if knn.main(flags):
        raise SystemExit(f"kNN of {checkpoint} failed")
    found = [r for r in results.read(out) if r["evaluation"] == "knn"]
    names = {"untrained": "knn_untrained", "raw pixels": "knn_pixels"}
    return {
        names.get(r["settings"]["encoder"], "knn"): r["metrics"]["top1"]
        for r in found
        if r["settings"]["k"] == 200
    }


def linear_top1(checkpoint: pathlib.Path, c: ConfigDict, workdir: pathlib.Path) -> float:
    """A probe on features made once, as configs/linear.py:demo."""
    p = linear.probe(c.copy_and_resolve_references())
    p.init, p.epochs, p.data.batch_size, p.optim.schedule = str(checkpoint), 30.0, 256, "cosine"
    p.supervised.update(held_out=0.1, lrs=(0.3, 1.0, 3.0, 10.0), augment=False, every_epochs=10.0)
    p.evals.names = ("accuracy",)
    return evaluated(p, workdir, "linear")["metrics"]["top1"]


def measure(method: str, flags: argparse.Namespace, seed: int) -> None:
    """One training and its evaluations; a line of results.jsonl."""
    workdir = flags.workdir / f"{method}-{seed}"
    if (workdir / "row.json").exists():
        return
    c = recipe(
        "moco_v2" if method == PEER else method, f"folder:{flags.images}", flags.epochs, seed
    )
    checkpoint = workdir / "run"
    if method == PEER:
        from benchmarks import torch_v2  # PyTorch is not needed for the others

        checkpoint = workdir / "model.pth.tar"
        row = torch_v2.train(c, checkpoint)
    else:
        row = trained(c, checkpoint)
    row |= knn_top1(checkpoint, c, workdir, method == "moco_v2" and seed == 0)
    row["linear"] = linear_top1(checkpoint, c, workdir / "linear")
    row |= {"method": method, "seed": seed, "epochs": flags.epochs}
    (workdir / "row.json").write_text(json.dumps(row) + "\n")
    print(row, flush=True)


def table(workdir: pathlib.Path) -> str:
    """All complete rows, the seeds of a method together."""
    rows = [json.loads(path.read_text()) for path in sorted(workdir.glob("*/row.json"))]
    lines = ["| method | kNN | linear | images/s | CPU s | seeds |", "|---|---|---|---|---|---|"]
    for method in (*METHODS, PEER):
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        knns, probes = (", ".join(f"{r[k]:.1%}" for r in own) for k in ("knn", "linear"))
        rate, cost = (
            statistics.mean(r[k] for r in own) for k in ("images_per_second", "cpu_seconds")
        )
        seeds = ", ".join(str(r["seed"]) for r in own)
        lines.append(f"| {method} | {knns} | {probes} | {rate:,.0f} | {cost:.0f} | {seeds} |")
    for row in rows:
        if "knn_pixels" in row:
            lines.append(f"{row['method']}: untrained {row['knn_untrained']:.1%}, "
                         f"raw pixels {row['knn_pixels']:.1%}")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", default="cifar10", help="folder with train/ and test/")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/cifar10")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--peer", action="store_true", help="also PyTorch, which has to be there")
    flags = parser.parse_args()
    set_up_logging()
    for seed in range(flags.seeds):
        for method in [*flags.methods, *[PEER] * flags.peer]:
            measure(method, flags, seed)
    print(table(flags.workdir))


if __name__ == "__main__":
    main()
