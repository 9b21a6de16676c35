"""The command: python -m moco_jax neighbors --checkpoint=RUN --data=folder:... --query=IMAGE.

Prints the images of a data set that are most similar to one, by the cosine of their features; with
no --query the pairs in it that are at least as similar as --threshold: near-duplicates. --out=FILE
writes the table as CSV. Exit codes: 0 done, 2 wrong input.

N images, F features, k neighbours
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from moco_jax import files
from moco_jax.commands.embedding import Embedding, add_flags, open_flags, parts_of
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.data.images import read_array
from moco_jax.data.source import ArraySource, existing
from moco_jax.errors import InputError
from moco_jax.evals.extraction import feature_batches
from moco_jax.ops.neighbours import nearest

_DUPLICATES = 10  # of an image that are looked for
Table = list[tuple]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax neighbors", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_flags(p)
    p.add_argument("--split", choices=("train", "test", "all"), default="all")
    p.add_argument("--query", type=pathlib.Path, nargs="+", help="images to find the like of")
    p.add_argument("--count", type=int, default=10, help="neighbours of each; default: 10")
    p.add_argument("--threshold", type=float, default=0.95, help="cosine of pairs; default: 0.95")
    p.add_argument("--out", type=pathlib.Path, help="file to write as well: .csv")
    return p


def bank(e: Embedding, split: str) -> tuple[np.ndarray, list[str]]:
    """Features (N, F) and names of the images of a split that can be read.

    Raises:
      InputError: a feature is NaN or infinite; there is no such split, or no image.
    """
    features, names, encode = [], [], e.encode(e.splits.train)
    for _, source in parts_of(e.splits, split):
        with e.naming(source):
            for batch in feature_batches(encode, e.batches(source)):
                features.append(batch.features)
                names += [source.item_name(index) for index in batch.index.tolist()]
    if not names:
        raise InputError(f"{e.splits.train.name} has no image that can be read")
    return np.concatenate(features), names


def similar(e: Embedding, queries: Sequence[pathlib.Path], split: str, count: int) -> Table:
    """(query, rank, cosine, file) of the most similar images, for each query.

    Args:
      e: the encoder and its data.
      queries: image files.
      split: 'train', 'test' or 'all'.
      count: images for each query.

    Raises:
      InputError: a query is no image.
      MissingError: it does not exist.
    """
    paths = [existing(str(query)) for query in queries]
    small = isinstance(e.splits.train, ArraySource) and e.encoder.channels == 3
    # Before the many: a wrong one shows at once. Small images of a folder are resized as arrays.
    wanted = e.encoder([read_array(path) for path in paths] if small else paths)
    features, names = bank(e, split)
    found = nearest(wanted, features, min(count, len(names)), e.mesh)
    return [
        (str(query), rank, float(cosine), names[index])
        for query, row in zip(queries, zip(found.cosine, found.index))
        for rank, (cosine, index) in enumerate(zip(*row), 1)
    ]


def duplicates(e: Embedding, split: str, threshold: float) -> Table:
    """(cosine, file, file) of pairs at least as similar as `threshold`, the most similar first.

    Args:
      e: the encoder and its data.
      split: 'train', 'test' or 'all'.
      threshold: cosine, in [-1, 1].

    Raises:
      InputError: there are fewer than two images.
    """
    features, names = bank(e, split)
    if len(names) < 2:
        raise InputError(f"{e.splits.train.name} has {len(names)} image: expected at least 2")
    most = min(_DUPLICATES, len(names) - 1)
    found = nearest(features, features, most, e.mesh, exclude_self=True)
    rows, columns = np.nonzero(found.cosine >= threshold)
    pairs = {
        tuple(sorted((int(i), int(found.index[i, k])))): float(found.cosine[i, k])
        for i, k in zip(rows, columns)
    }
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(cosine, names[i], names[j]) for (i, j), cosine in ordered]


def run(flags: argparse.Namespace) -> None:
    """Searches, prints and writes.

    Raises:
      InputError: a flag is out of its range.
    """
    if flags.count < 1 or not -1 <= flags.threshold <= 1:
        raise InputError(f"--count={flags.count}, --threshold={flags.threshold}: expected at least "
                         "1, and a cosine in [-1, 1]")  # fmt: skip
    if flags.out:
        check_writable(flags.out)
    e = open_flags(flags)
    if flags.query:
        header = ("query", "rank", "cosine", "file")
        table = similar(e, flags.query, flags.split, flags.count)
    else:
        header, table = ("cosine", "file", "like"), duplicates(e, flags.split, flags.threshold)
    table = [tuple(f"{x:.4f}" if isinstance(x, float) else x for x in row) for row in table]
    print("\n".join("  ".join(map(str, row)) for row in [header, *table]))
    if not flags.query:
        print(f"{len(table)} pairs with a cosine of at least {flags.threshold:g}")
    if flags.out:
        files.write_csv(flags.out, [header, *table])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = parser().parse_args(argv)
    return guarded(lambda: run(flags))
