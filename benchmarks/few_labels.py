"""What pre-training is worth with few labels: fine-tuning from it and from scratch, equally.

python -m benchmarks.few_labels --init=runs/demo --workdir=runs/few_labels

The recipe is configs/finetune.py:demo for both. The first seed tries each rate for both; then all
seeds run with the recipe's rate for both, and with each one's best of the first seed. Runs that
are complete in the workdir are not done again.
"""

import argparse
import pathlib

import numpy as np

from configs import finetune
from moco_jax import results, train
from moco_jax.main import set_up_logging


def top1(args: argparse.Namespace, init: str, rate: float, seed: int) -> float:
    """Test accuracy of one fine-tuning."""
    c = finetune.get_config("demo")
    c.init, c.seed, c.data.label_share, c.optim.base_lr = init, seed, args.share, rate
    c.log.tensorboard = False
    name = f"{'pretrained' if init else 'scratch'}-{rate:g}-{seed}"
    if train.run(c, args.workdir / name):
        raise SystemExit("stopped; the same command goes on")
    (record,) = (r for r in results.read(args.workdir / name) if r["evaluation"] == "finetune")
    print(f"{name}: {record['metrics']['top1']:.1%}", flush=True)
    return record["metrics"]["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--init", default="runs/demo", help="the pre-training's workdir")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/few_labels")
    parser.add_argument("--share", type=float, default=0.01, help="of the labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    args = parser.parse_args()
    set_up_logging()
    own = finetune.get_config("demo").optim.base_lr
    for init in (args.init, ""):
        best = max(args.rates, key=lambda rate: top1(args, init, rate, 0))
        for rate in dict.fromkeys((own, best)):
            tops = 100 * np.array([top1(args, init, rate, s) for s in range(args.seeds)])
            name = "pre-trained" if init else "from scratch"
            kind = ", the best of seed 0" * (rate == best) + ", the recipe's" * (rate == own)
            spread = f"{tops.mean():.1f} +- {tops.std(ddof=1):.1f}"
            print(f"{name}, base_lr {rate:g}{kind}: {spread} ({tops.round(1).tolist()})")


if __name__ == "__main__":
    main()
