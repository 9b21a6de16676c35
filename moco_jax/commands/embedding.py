"""Features of a whole data set from a checkpoint: what the commands on features share.

B batch, N images, F features
"""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from moco_jax import mesh as meshes
from moco_jax.commands.convert import ENCODER_HELP
from moco_jax.commands.terminal import numbers
from moco_jax.config import BACKENDS, DTYPES, FEATURES, default
from moco_jax.convert.arch import ARCHS
from moco_jax.data import augment, pipeline, transfer
from moco_jax.data.prefetch import Prefetcher
from moco_jax.data.source import Source, Splits, log_data
from moco_jax.encoder import LOGITS, Encoder, load
from moco_jax.errors import InputError, NotFiniteError
from moco_jax.evals.extraction import Encode

log = logging.getLogger(__name__)

# Options of `config.data` that say how images are read: flags here as they are in training. Others
# have a flag of their own below, or are of training alone.
READING = (
    *("image_column", "label_column", "threads", "processes", "prefetch", "max_bad_share"),
    *("max_pixels", "levels", "read_seconds", "array_gb", "resident_gb", "cache_dir"),
    *("test_share", "test_seed"),
)


class Embedding(NamedTuple):
    """An encoder, the data it is run on, and the devices.

    Attributes:
      encoder: of `moco_jax.load`.
      data: `config.data` for evaluation: the checkpoint's, with what the flags override.
      splits: the images.
      mesh: over all devices.
    """

    encoder: Encoder
    data: ConfigDict
    splits: Splits
    mesh: jax.sharding.Mesh

    def encode(self, source: Source, encoder: Encoder | None = None) -> Encode:
        """The function from evaluation batch of a source, either split, to features (B, F)."""
        encoder = encoder or self.encoder
        view = partial(
            augment.eval_view,
            image_size=encoder.image_size,
            crop_share=self.data.eval_crop_share,
            mean=(0.0,) * encoder.channels,  # the encoder itself normalizes
            std=(1.0,) * encoder.channels,
        )
        run = jax.jit(lambda params, batch: encoder.apply(params, view(batch)))
        return partial(run, jax.device_put(encoder.params, meshes.replicated(self.mesh)))

    def batches(self, source: Source, limit: int = 0, start: int = 0) -> Prefetcher:
        """Evaluation batches of a source on the mesh, from image `start` on.

        Args:
          source: either split.
          limit: images, evenly spaced; 0: all.
          start: the first of them.
        """
        options = transfer.options(source, meshes.batched(self.mesh), self.data.resident_gb)
        return pipeline.eval_batches(source, self.data, limit, start=start, **options)

    @contextlib.contextmanager
    def naming(self, source: Source) -> Iterator[None]:
        """Gives features that are not finite the names of checkpoint and image.

        Raises:
          InputError: within the context there were some.
        """
        try:
            yield
        except NotFiniteError as error:
            item = source.item_name(error.index[0])
            raise InputError(
                f"{self.encoder.name} gives {error} of {source.name}: {item}"
            ) from error


def add_flags(p: argparse.ArgumentParser, features: bool = True) -> None:
    """The flags that say which encoder, and which images; without `features`, its classifier.

    Args:
      p: gets the flags.
      features: whether backbone or projection is chosen, not the classifier.
    """
    p.add_argument("--checkpoint", required=True, help="workdir, or any file that convert reads")
    p.add_argument("--data", help="source of images; default: what the workdir was trained on")
    if features:
        p.add_argument("--features", choices=FEATURES, default="backbone")
    else:
        p.set_defaults(features=LOGITS)
    p.add_argument("--encoder", help=ENCODER_HELP)
    p.add_argument("--image_size", type=int, help="pixels; default: the checkpoint's, or 224")
    p.add_argument("--crop_share", type=float, help="of the short side that is seen; or 0.875")
    p.add_argument("--mean", type=numbers(float), default=(), help="per channel, in [0, 1]")
    p.add_argument("--std", type=numbers(float), default=(), help="per channel")
    p.add_argument("--batch_size", type=int, help="images over all devices")
    p.add_argument("--dtype", choices=DTYPES, help="of the computation")
    p.add_argument("--backend", choices=BACKENDS, default="auto")
    p.add_argument("--arch", choices=list(ARCHS), help="where the file leaves it open")
    p.add_argument("--heads", type=int, help="attention heads, where the file leaves them open")
    p.add_argument("--partial", action="store_true", help="take what fits, list what does not")
    reading = p.add_argument_group("how images are read, as in training (moco_jax/config.py)")
    for name in READING:
        kind = type(default().data[name])
        reading.add_argument(f"--config.data.{name}", type=kind, metavar=kind.__name__)


def open_flags(flags: argparse.Namespace) -> Embedding:
    """What the flags name.

    Raises:
      InputError: a wrong value; no source of images; images that do not fit the encoder.
      MissingError: there is no such checkpoint or source.
      CheckpointError: the checkpoint cannot be used.
      RuntimeError: the backend is not there.
    """
    meshes.select_backend(flags.backend)
    encoder = load(
        flags.checkpoint, encoder=flags.encoder, features=flags.features,
        image_size=flags.image_size, mean=flags.mean, std=flags.std, dtype=flags.dtype,
        arch=flags.arch, heads=flags.heads, partial=flags.partial,
    )  # fmt: skip
    data = encoder.config.data
    if flags.data and flags.data != data.source:
        data.source, data.test_share = flags.data, 0.0
    if not data.source:
        raise InputError(f"{flags.checkpoint} does not say which images it has seen: name --data")
    data.eval_crop_share = flags.crop_share or data.eval_crop_share
    data.eval_batch_size = flags.batch_size or data.eval_batch_size
    given = {name: getattr(flags, f"config.data.{name}") for name in READING}
    data.update({name: value for name, value in given.items() if value is not None})
    log.info(
        "Taken: images %s; %d x %d pixels, the central %g; mean %s, std %s",
        data.source, encoder.image_size, encoder.image_size, data.eval_crop_share,
        *([round(x, 4) for x in numbers] for numbers in (encoder.mean, encoder.std)),
    )  # fmt: skip
    mesh = meshes.make_mesh()
    meshes.check_batch("batch_size", data.eval_batch_size, mesh)
    splits = pipeline.open_data(data)
    log_data(splits)
    for source in filter(None, splits):
        if source.channels != encoder.channels:
            raise InputError(
                f"{source.name} has images of {source.channels} channels; the encoder of "
                f"{flags.checkpoint} takes {encoder.channels}"
            )
        pipeline.check(source, data)
    return Embedding(encoder, data, splits, mesh)


def parts_of(splits: Splits, which: str) -> Iterator[tuple[str, Source]]:
    """The splits 'train', 'test' or 'all' of a source, each with its name.

    Args:
      splits: of the source.
      which: 'train', 'test' or 'all'.

    Raises:
      InputError: there is no test split.
    """
    if which == "test" and splits.test is None:
        raise InputError(f"{splits.train.name} has no test images: --split=train")
    for name, source in splits._asdict().items():
        if source is not None and which in (name, "all"):
            yield name, source
