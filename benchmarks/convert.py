"""Memory and time of converting large checkpoints.

python -m benchmarks.convert [--directory DIR]

Each conversion is a process of its own; its peak of resident memory (VmHWM, so Linux only) counts
the pages of the mapped file too. Needs 8 GB of disk.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from configs import v3_vit
from moco_jax import convert
from moco_jax.checkpoint import named
from moco_jax.config import ConfigDict
from moco_jax.convert.contents import Contents
from moco_jax.convert.formats.ours import optimizer_leaf
from moco_jax.methods import Facts, make_method
from moco_jax.optim import make_optimizer

# Name of the source, config, whether it is a whole training, and what it becomes in turn.
CHAINS = (
    ("vit_large.pth", "l16", False, ("ours/", "out.safetensors", "transformers/", "back.pth")),
    ("vit_base.pth.tar", "b16", True, ("ours/", "back.pth.tar", "detached.pth")),
)


def random_contents(c: ConfigDict, whole: bool) -> Contents:
    """Weights of a config, and of its whole training, as random numbers."""
    c.data.batch_size = 8
    method = make_method(c, Facts(2**20, 0, (224, 224, 3), 10, 10.0))
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    tx = make_optimizer(c.optim, params, lambda step: 0.1)
    tree = {"params": params, "method_state": state, "opt_state": jax.eval_shape(tx.init, params)}
    shapes, rng = named(tree), np.random.default_rng(0)
    leaves = {"optimizer/count": np.asarray(1, np.int32)} if whole else {}
    for name, leaf in shapes.items():
        if leaf.dtype == np.float32 and (whole or "params/backbone" in name):
            value = rng.standard_normal(leaf.shape, np.float32)
            leaves[optimizer_leaf(name, shapes)] = value
    return Contents("ours", c, leaves, method="moco_v3" if whole else "", epoch=1.0, step=1)


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


COMMAND = """
import re, sys
from moco_jax.convert.__main__ import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def measure(source: pathlib.Path, target: pathlib.Path, to: str) -> None:
    """Converts in a process of its own; prints a row."""
    arguments = [str(source), str(target), "--to", to]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=True
    )
    seconds, peak = time.monotonic() - begin, int(done.stdout) * 1024
    print(
        f"| {source.name} | {to} | {size_of(source) / 1e9:.2f} | {size_of(target) / 1e9:.2f} "
        f"| {peak / 1e9:.2f} | {seconds:.1f} |",
        flush=True,
    )


FORMATS = {"ours": "ours", "transformers": "transformers", ".pth.tar": "moco_v3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where the files go; by default a temporary one")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().directory) as directory:
        print("| from | to | GB read | GB written | peak GB | seconds |\n|---|---|---|---|---|---|")
        for name, variant, whole, chain in CHAINS:
            folder = pathlib.Path(directory) / variant
            source = folder / name
            contents = random_contents(v3_vit.get_config(variant), whole)
            convert.write(source, contents, None if whole else "timm")
            del contents
            for target in chain:
                path = folder / target.strip("/")
                to = next((f for end, f in FORMATS.items() if path.name.endswith(end)), "timm")
                measure(source, path, to)
                source = path


if __name__ == "__main__":
    main()
