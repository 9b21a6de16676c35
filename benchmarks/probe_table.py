"""Linear probe of raw pixels, of a random encoder and of a trained one: three runs of one command.

python -m benchmarks.probe_table --init=runs/demo --workdir=runs/probe
"""

import argparse
import pathlib

from benchmarks.evaluated import evaluated
from configs import linear
from moco_jax.main import set_up_logging


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--init", default="runs/demo", help="the pre-training's workdir")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/probe")
    parser.add_argument("--variant", default="demo", help="of configs/linear.py")
    args = parser.parse_args()
    set_up_logging()
    lines = [
        "| features | top-1, rate chosen on held-out images | at the protocol's rate |",
        "|---|---|---|",
    ]
    runs = {"raw pixels": ("pixels", ""), "random encoder": ("", "")}
    runs["trained encoder"] = ("", args.init)
    for name, (model, init) in runs.items():
        c = linear.get_config(args.variant)
        c.init, c.model.name = init, model or c.model.name
        record = evaluated(c, args.workdir / name.replace(" ", "_"), "linear")
        metrics, chosen = record["metrics"], record["settings"]["chosen"]
        norm = ", after BatchNorm" if chosen["batch_norm"] else ""
        lines.append(
            f"| {name} | {metrics['top1']:.1%} ({chosen['base_lr']:g}{norm}) "
            f"| {metrics.get('top1_own', float('nan')):.1%} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
