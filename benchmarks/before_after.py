"""The same run by two checkouts of this repository in turn: CPU time, wall time, accuracy.

    git worktree add ../before COMMIT
    python -m benchmarks.before_after --before=../before --config=configs/demo.py --rounds=3 \
        -- --config.epochs=8

Both run as programs, in their own folders, by this interpreter; pairs are quoted, since the
machine's speed drifts.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parents[1]


def run(checkout: pathlib.Path, config: str, options: list[str]) -> dict[str, float]:
    """One training: CPU and wall seconds, kNN accuracy and loss at its end."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "moco_jax.main", f"--config={config}"]
        command += [f"--workdir={workdir}", *options]
        begin = time.monotonic()
        process = subprocess.Popen(
            command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} in {checkout} ended with status {status}")
        last = json.loads((pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.monotonic() - begin,
        "kNN": last["knn_top1"],
        "loss": last["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("options", nargs="*", help="after --: for both runs")
    flags = parser.parse_args()
    pairs = []
    for _ in range(flags.rounds):
        pair = [run(c.resolve(), flags.config, flags.options) for c in (flags.before, HERE)]
        pairs.append(pair)
        print("  ".join(f"{k} {pair[0][k]:.4g} -> {pair[1][k]:.4g}" for k in pair[0]), flush=True)
    for key in ("cpu", "wall"):
        ratios = [after[key] / before[key] for before, after in pairs]
        print(f"{key}: now / before {statistics.median(ratios):.3f} (median of {len(ratios)}; "
              f"{min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
