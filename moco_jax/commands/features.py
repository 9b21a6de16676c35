"""The command: python -m moco_jax features --checkpoint=... --data=folder:... --out=features.npz.

Writes the features of a data set: .npz, or .parquet (needs pyarrow). Parts are
kept beside the file while it is made; the same command goes on after an interruption. Exit codes:
0 done, 75 stopped by a signal (the same command resumes), 2 wrong input.

N images, F features
"""

import argparse
import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from moco_jax.cluster.stop import stop_requested
from moco_jax.commands.embedding import Embedding, add_flags, open_flags, parts_of
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.data.source import Source
from moco_jax.errors import EXIT_RESTART
from moco_jax.evals.extraction import Encode, Features, feature_batches
from moco_jax.evals.featurefile import Parts, assemble, check_out

log = logging.getLogger(__name__)

PART_IMAGES = 8192  # after so many, what was found is kept


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax features", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_flags(p)
    p.add_argument("--split", choices=("train", "test", "all"), default="all")
    p.add_argument("--out", type=pathlib.Path, required=True, help="file: .npz or .parquet")
    return p


def write(e: Embedding, split: str, out: pathlib.Path) -> bool:
    """Writes the features of a split to a file, or goes on with what is kept of it.

    Args:
      e: the encoder and the data.
      split: 'train', 'test' or 'all'.
      out: .npz or .parquet: `features` float32 (N, F), `labels` (-1: none), `names`, `index` in the
        source, `split`, and `class_names`.

    Returns:
      False when a signal ended it early.

    Raises:
      InputError: the file exists or cannot be written, or another extraction is kept beside it.
      NotFiniteError: a feature is NaN or infinite.
    """
    check_out(out)
    sources = dict(parts_of(e.splits, split))
    parts = Parts(out, about(e, sources))
    encode = e.encode(e.splits.train)
    with stop_requested() as stop:
        if not all(_extend(e, encode, parts, *split, stop) for split in sources.items()):
            return False
    class_names = e.splits.train.class_names
    count = assemble(out, parts, lambda name, i: sources[name].item_name(i), class_names)
    log.info("Wrote %s: %d images, %d features each", out, count, e.encoder.num_features)
    return True


def _extend(
    e: Embedding,
    encode: Encode,
    parts: Parts,
    name: str,
    source: Source,
    stop: Callable[[int], bool],
) -> bool:
    """Makes the parts of a split that are missing, from the first on; False when stopped."""
    start = at = parts.done(name)
    if start == len(source):
        return True
    if start:
        log.info("%s: going on at image %d of %d", name, start, len(source))
    held, begin = [], time.monotonic()
    found = feature_batches(encode, e.batches(source, start=start))
    with contextlib.closing(found), e.naming(source):
        for batch in found:
            held.append(batch)
            at = min(at + e.data.eval_batch_size, len(source))
            ends = at == len(source) or stop(at)
            if ends or at - start >= PART_IMAGES:
                parts.add(name, start, at, Features(*map(np.concatenate, zip(*held))))
                held, start = [], at
                seconds = time.monotonic() - begin
                log.info("%s: %d of %d images, %.0f s", name, at, len(source), seconds)
            if ends:
                break
    return at == len(source)


def about(e: Embedding, sources: dict[str, Source]) -> dict:
    """What decides the features.

    Args:
      e: the encoder and how it is run.
      sources: by name of the split.
    """
    x, d = e.encoder, e.data
    return {
        "checkpoint": x.name, "weights": x.digest, "features": x.features, "data": d.source,
        "images": {name: len(source) for name, source in sources.items()},
        "image_size": x.image_size, "crop_share": d.eval_crop_share, "mean": x.mean, "std": x.std,
        "dtype": x.config.model.dtype,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the features; returns the exit code."""
    flags = parser().parse_args(argv)

    def run() -> int | None:
        check_out(flags.out)
        check_writable(flags.out)
        if write(open_flags(flags), flags.split, flags.out):
            return None
        log.warning("Stopped; the same command resumes.")
        return EXIT_RESTART

    return guarded(run)
