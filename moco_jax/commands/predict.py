"""The command: python -m moco_jax predict --checkpoint=... --data=folder:... --out=predictions.csv.

Writes file, class and probability of each image, by the classifier of a fine-tuned network or of a
linear probe (its chosen head). Exit codes: 0 done, 2 wrong input.

B batch, K classes
"""

import argparse
import logging
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from moco_jax import files
from moco_jax.commands.embedding import Embedding, add_flags, open_flags, parts_of
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.errors import InputError
from moco_jax.evals.extraction import feature_batches

log = logging.getLogger(__name__)

HEADER = ("file", "class", "probability")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax predict", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_flags(p, features=False)
    p.add_argument("--split", choices=("train", "test", "all"), default="all")
    p.add_argument("--out", type=pathlib.Path, required=True, help="file to write: .csv")
    return p


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (B, K) float64 of logits (B, K)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def rows(e: Embedding, split: str) -> Iterator[tuple[str, str, str]]:
    """What HEADER names, of each image that can be read.

    Args:
      e: the encoder, which gives logits, and its data.
      split: 'train', 'test' or 'all'.

    Raises:
      InputError: a logit is NaN or infinite; there is no such split.
    """
    names = e.encoder.classes or [str(number) for number in range(e.encoder.num_features)]
    encode = e.encode(e.splits.train)
    for _, source in parts_of(e.splits, split):
        with e.naming(source):
            for batch in feature_batches(encode, e.batches(source)):
                chances = softmax(batch.features)
                for index, chance in zip(batch.index.tolist(), chances):
                    best = int(chance.argmax())
                    yield source.item_name(index), names[best], f"{chance[best]:.4f}"


def run(flags: argparse.Namespace) -> None:
    """Predicts and writes.

    Raises:
      InputError: the file to write is no .csv.
    """
    if flags.out.suffix.lower() != ".csv":
        raise InputError(f"--out={flags.out}: expected a file that ends in .csv")
    check_writable(flags.out)
    e = open_flags(flags)
    found = list(rows(e, flags.split))
    files.write_csv(flags.out, [HEADER, *found])
    log.info("Wrote %s: %d images, %d classes", flags.out, len(found), e.encoder.num_features)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the predictions; returns the exit code."""
    flags = parser().parse_args(argv)
    return guarded(lambda: run(flags))
