"""kNN: time beside scikit-learn and faiss; memory measured at a tenth of ImageNet, computed at all.

python -m benchmarks.knn time      # needs pip install scikit-learn faiss-cpu
python -m benchmarks.knn memory    # Linux: reads the peak of resident memory from /proc

Features are random; the peers search unit vectors, so that the neighbours are the same.
"""

import argparse
import pathlib
import re
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from moco_jax.mesh import make_mesh
from moco_jax.ops import neighbours


def unit(rng: np.random.Generator, n: int, c: int) -> np.ndarray:
    """Random unit vectors, float32 (n, c)."""
    x = rng.standard_normal((n, c), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def searches(bank: np.ndarray, queries: np.ndarray, k: int) -> dict[str, Callable]:
    """The contestants: each a function without arguments that gives indices (M, k)."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    mesh = make_mesh()
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    sklearn = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="euclidean").fit(bank)
    return {
        "moco_jax": lambda: neighbours.nearest(queries, bank, k, mesh).index,
        "faiss IndexFlatIP": lambda: index.search(queries, k)[1],
        "scikit-learn brute": lambda: sklearn.kneighbors(queries, return_distance=False),
    }


def measure_time(images: int, count: int, features: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    bank, queries = unit(rng, images, features), unit(rng, count, features)
    for k in (20, 200):
        best, found = {}, {}
        for _ in range(rounds):
            for name, search in searches(bank, queries, k).items():
                begin = time.perf_counter()
                found[name] = search()
                best[name] = min(best.get(name, np.inf), time.perf_counter() - begin)
        for name, seconds in best.items():
            same = (found[name] == found["moco_jax"]).mean()
            print(
                f"k = {k}, {name}: {seconds:.2f} s, {seconds / best['moco_jax']:.2f} times ours; "
                f"{same:.4%} of the indices are ours",
                flush=True,
            )


def peak() -> float:
    """The highest resident memory of this process so far, GB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e6


def measure_memory(images: int, count: int, features: int, k: int = 200) -> None:
    one = make_mesh(jax.devices()[:1])
    for n, m in ((images, count), (10 * images, 10 * count)):
        needed = neighbours.device_bytes(m, n, features, k, one)
        print(
            f"{n} x {features} and {m} queries, k = {k}: bank {4e-9 * n * features:.2f} GB, "
            f"queries {4e-9 * m * features:.2f} GB; on each device {needed / 1e9:.2f} GB"
        )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        bank = np.memmap(f"{folder}/bank", np.float32, "w+", shape=(images, features))
        for start in range(0, images, 8000):
            bank[start : start + 8000] = unit(rng, len(bank[start : start + 8000]), features)
        queries = unit(rng, count, features)
        before, begin = peak(), time.perf_counter()
        neighbours.nearest(queries, bank, k, make_mesh())
        print(
            f"measured at {images} and {count}: {time.perf_counter() - begin:.0f} s, peak of the "
            f"process {peak():.2f} GB, {before:.2f} GB before the search"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--queries", type=int, default=0)
    parser.add_argument("--features", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="the first of ours also compiles")
    flags = parser.parse_args()
    if flags.what == "time":
        shape = (flags.images or 100_000, flags.queries or 10_000, flags.features or 512)
        measure_time(*shape, flags.rounds)
    else:
        measure_memory(flags.images or 128_000, flags.queries or 5_000, flags.features or 2048)


if __name__ == "__main__":
    main()
