"""Every method's demonstration, one after the other: kNN, CPU time and wall time.

python -m benchmarks.demos
python -m benchmarks.demos --methods byol swav -- --config.seed=1
"""

import argparse

from benchmarks.before_after import HERE, run

DEMOS = {
    "moco_v2": "configs/demo.py",
    "moco_v3": "configs/v3_r50.py:demo",
    **{
        method: f"configs/{method}.py:demo"
        for method in ("end_to_end", "memory_bank", "simclr", "byol", "swav")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=DEMOS, default=list(DEMOS))
    parser.add_argument("options", nargs="*", help="after --: for all runs")
    flags = parser.parse_args()
    print("| command | kNN top-1 | CPU s | s |\n|---|---|---|---|")
    for method in flags.methods:
        got = run(HERE, DEMOS[method], flags.options)
        print(f"| {' '.join((DEMOS[method], *flags.options))} | {got['kNN']:.1%} "
              f"| {got['cpu']:.0f} | {got['wall']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
