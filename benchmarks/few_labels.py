"""What pre-training is worth with few labels: fine-tuning from it, or from scratch without --init.

python -m benchmarks.few_labels --init=runs/demo --workdir=runs/few_labels
python -m benchmarks.few_labels --workdir=runs/few_labels

The recipe is configs/finetune.py:demo, as many steps for any share of the labels. Each rate is
first tried with every seed on a fifth of the training images, held out from the labelled ones;
the best mean there goes to the test images. Every seed draws other labels. Runs that are complete
in the workdir are not done again.
"""

import argparse
import pathlib

import numpy as np

from benchmarks.evaluated import evaluated
from configs import finetune
from moco_jax.config import ConfigDict
from moco_jax.data.source import open_source
from moco_jax.data.subset import hold_out, labels_of
from moco_jax.main import set_up_logging

HELD_OUT = 0.2  # of the training images


def held_out_source(workdir: pathlib.Path, spec: str) -> str:
    """Writes a .npz whose test images are a share of the training ones; returns its source."""
    path = workdir / "held_out.npz"
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        train_part, test_part = hold_out(open_source(spec).train, HELD_OUT, 0)
        np.savez_compressed(
            path,
            images=train_part.images,
            labels=labels_of(train_part),
            test_images=test_part.images,
            test_labels=labels_of(test_part),
        )
    return f"npz:{path}"


def top1(c: ConfigDict, workdir: pathlib.Path) -> float:
    """Accuracy of one fine-tuning, in percent."""
    c.log.tensorboard = False
    share = evaluated(c, workdir, "finetune")["metrics"]["top1"]
    print(f"{workdir.name}: {share:.1%}", flush=True)
    return 100 * share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--init", default="", help="the pre-training's workdir; '': from scratch")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/few_labels")
    parser.add_argument("--share", type=float, default=0.01, help="of the labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3])
    args = parser.parse_args()
    set_up_logging()
    start = pathlib.Path(args.init).name if args.init else "scratch"

    def tops(rate: float, held_out: bool) -> np.ndarray:
        values = []
        for seed in range(args.seeds):
            c = finetune.get_config("demo")
            c.init, c.seed, c.optim.base_lr = args.init, seed, rate
            c.data.label_share = args.share
            c.epochs = float(c.epochs)  # as many steps on fewer images, of which as many labelled
            if held_out:
                c.data.source = held_out_source(args.workdir, c.data.source)
                c.data.label_share = args.share / (1 - HELD_OUT)
            part = "held_out" if held_out else "test"
            values.append(top1(c, args.workdir / f"{start}-{part}-{rate:g}-{seed}"))
        return np.array(values)

    tried = {rate: tops(rate, held_out=True) for rate in args.rates}
    chosen = max(tried, key=lambda rate: tried[rate].mean())
    lines = [f"held-out images, base_lr {rate:g}: {describe(t)}" for rate, t in tried.items()]
    lines.append(f"test images, base_lr {chosen:g}: {describe(tops(chosen, held_out=False))}")
    print("\n".join(f"{start}, {line}" for line in lines))


def describe(values: np.ndarray) -> str:
    """Mean, standard deviation and all values."""
    return f"{values.mean():.1f} +- {values.std(ddof=1):.1f} ({values.round(1).tolist()})"


if __name__ == "__main__":
    main()
