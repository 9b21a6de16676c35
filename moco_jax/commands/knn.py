"""The command: python -m moco_jax knn --checkpoint=... [--data=SOURCE] [--k=20,200].

Measures kNN of a checkpoint's features, and beside it that of the same network untrained and of raw
pixels. The table is printed; `results.json` gets it too. Exit codes: 0 done, 2 wrong input.
"""

import argparse
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from moco_jax import results
from moco_jax.bucket import Place, place
from moco_jax.commands.embedding import Embedding, add_flags, open_flags
from moco_jax.commands.terminal import check_writable, guarded, numbers
from moco_jax.convert.formats.ours import is_ours
from moco_jax.data.source import Splits
from moco_jax.data.subset import labelled_only
from moco_jax.encoder import untrained
from moco_jax.errors import InputError, NotFiniteError
from moco_jax.evals import knn_accuracy, knn_options
from moco_jax.evals.extraction import Encode, make_pixels


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax knn", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_flags(p)
    p.add_argument("--k", type=numbers(int), help="neighbours: 20,200 for example")
    p.add_argument("--temperature", type=numbers(float), help="0.07,0.1 for example")
    p.add_argument("--max_train", type=int, help="images of the bank, evenly spaced; 0: all")
    p.add_argument("--max_test", type=int, help="queries, evenly spaced; 0: all")
    p.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True,
                   help="also the untrained network and raw pixels")  # fmt: skip
    p.add_argument("--out", help="folder of results.json; default: the workdir, "
                   "or where the file lies")  # fmt: skip
    return p


def options(flags: argparse.Namespace, config: ConfigDict) -> ConfigDict:
    """`config.knn` of the checkpoint, with what the flags override."""
    c = config.knn
    if flags.k:
        c.k, c.ks = flags.k[0], flags.k[1:]
    if flags.temperature:
        c.temperature, c.temperatures = flags.temperature[0], flags.temperature[1:]
    for name in ("max_train", "max_test"):
        value = getattr(flags, name)
        c[name] = c[name] if value is None else value
    c.features = flags.features
    knn_options.pairs_of(c)  # refuses what is wrong before anything is computed
    return c


def contestants(e: Embedding, floors: bool) -> Iterator[tuple[str, str, Encode]]:
    """What is measured: which encoder, which features, function from batch to features.

    Args:
      e: the encoder and its data.
      floors: whether the untrained network and raw pixels are measured too.
    """
    source, x = e.splits.train, e.encoder
    yield x.step or x.path, x.features, e.encode(source)
    if floors:
        yield "untrained", x.features, e.encode(source, untrained(x, x.config.seed))
        yield "raw pixels", "pixels", make_pixels(source, e.data)


def folder_of(checkpoint: str) -> Place:
    """Where results of a checkpoint go: its workdir, or the folder that it is in."""
    path = place("checkpoint", checkpoint)
    if (path / "state").is_dir():
        return path.parent.parent
    return path if path.is_dir() and is_ours(path) else path.parent


def run(flags: argparse.Namespace) -> None:
    """Measures, prints and saves.

    Raises:
      InputError: a feature is not finite, or a flag does not fit.
    """
    out = place("out", flags.out) if flags.out else None
    if isinstance(out, pathlib.Path):
        check_writable(out / results.FILE)
    e = open_flags(flags)
    c, folder = options(flags, e.encoder.config), out or folder_of(flags.checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    print(e.encoder.name)
    data = Splits(*map(labelled_only, e.splits))
    for name, features, encode in contestants(e, flags.floors):
        try:
            outcome = knn_accuracy.evaluate(encode, data, e.batches, c, e.mesh)
        except NotFiniteError as error:
            raise InputError(f"{e.encoder.name}, {name}: {error}") from error
        settings = {"encoder": name, "features": features} | overridden(flags)
        knn_accuracy.save(folder, outcome, settings, e.encoder.config.seed)
        print(f"{name}: {outcome.examples} images of {outcome.split}, bank of {outcome.bank}")
        print("\n".join(map(row, outcome.scores)), flush=True)
    print(f"Results in {folder / results.FILE}")


def overridden(flags: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of the features; and the checkpoint, where results go elsewhere."""
    names = ("image_size", "crop_share", "mean", "std", "dtype")
    given = {name: getattr(flags, name) for name in names if getattr(flags, name)}
    if flags.encoder:
        given["which"] = flags.encoder
    return given | ({"checkpoint": str(flags.checkpoint)} if flags.out else {})


def row(score: knn_accuracy.Score) -> str:
    """A line of the table."""
    top5 = "" if score.top5 is None else f"  top-5 {score.top5:6.1%}"
    return f"  k {score.k:4}  T {score.temperature:<5g}  top-1 {score.top1:6.1%}{top5}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = parser().parse_args(argv)
    return guarded(lambda: run(flags))
