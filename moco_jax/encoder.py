"""An encoder from any checkpoint, with its preprocessing: `moco_jax.load`.

B batch, N images, H W of an image, S the side that the network sees, C channels, F features.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax import convert
from moco_jax.checkpoint import checksums_of, named
from moco_jax.config import DTYPES, FEATURES, ConfigDict, choose
from moco_jax.convert.contents import ROLES, Contents, select
from moco_jax.convert.encoder_weights import (
    LOGITS,
    channels_of,
    encoder_weights,
    make_apply,
)
from moco_jax.convert.position import resize
from moco_jax.data import pipeline
from moco_jax.data.images import ImageLike, as_list, prepare
from moco_jax.data.workers import cores
from moco_jax.errors import InputError, NotFiniteError
from moco_jax.methods.networks import make_networks

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """Images in, features out; `moco_jax.load` makes it.

    Attributes:
      path: the checkpoint.
      step: 'step N' of a workdir; '' of other formats.
      config: its recipe: network, preprocessing, and what else the checkpoint tells.
      features: what it gives: 'backbone', 'projection' or 'logits'.
      num_features: F.
      channels: C.
      mean: per channel, of pixels in [0, 1].
      std: per channel.
      batch_size: images that a call computes at a time, at most.
      classes: names of the classes, of 'logits'; () where they have none.
      params: the networks' parameters and BatchNorm statistics, float32.
      apply: the pure function (params, images (B, S, S, C) float32 in [0, 1]) -> (B, F) float32,
        for use under `jax.jit`; it normalizes the images by itself.
    """

    path: str
    step: str
    config: ConfigDict
    features: str
    num_features: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    classes: tuple[str, ...]
    params: Tree
    apply: Callable[[Tree, jax.Array], jax.Array]

    @property
    def image_size(self) -> int:
        """S, pixels."""
        return self.config.data.image_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        return self.image_size, self.image_size, self.channels

    def __repr__(self) -> str:
        what = f"{self.image_shape} -> {self.num_features} of the {self.features}"
        return f"Encoder({self.name}: {self.config.model.name}, {what})"

    @property
    def name(self) -> str:
        """What results and errors call it: checkpoint and step."""
        return f"{self.path}, {self.step}" if self.step else self.path

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Features of images of any size and number.

        The central part of each is resized to S x S as in evaluation: files and PIL images as
        folders of images are (on the host by PIL), arrays as array sources are. The last batch
        is padded to a power of two, so that few programs are compiled.

        Args:
          images: uint8 array (H, W), (H, W, C) or (N, H, W, C), PIL image, path, or list of such.

        Returns:
          float32 (N, F), N = 1 for a single image.

        Raises:
          InputError: an image is no image, or has other than C channels.
          NotFiniteError: a feature is NaN or infinite.
        """
        found = list(self._batches(as_list(images)))
        return np.concatenate([np.zeros((0, self.num_features), np.float32), *found])

    def _batches(self, images: Sequence[ImageLike]) -> Iterator[np.ndarray]:
        """Features of the images, batch by batch; the host prepares the next one meanwhile."""
        share = self.config.data.eval_crop_share
        ready = functools.partial(
            prepare, size=self.image_size, share=share, channels=self.channels
        )
        ahead = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                rows = min(self.batch_size, 1 << (len(part) - 1).bit_length())
                batch = np.zeros((rows, *self.image_shape), np.float32)
                for row, image in zip(batch, pool.map(ready, part)):
                    row[:] = image
                ahead.append((start, len(part), self._jitted(self.params, batch)))
                if len(ahead) > 1:
                    yield _finite(*ahead.popleft())
        while ahead:
            yield _finite(*ahead.popleft())

    @functools.cached_property
    def _jitted(self) -> Callable[[Tree, jax.Array], jax.Array]:
        return jax.jit(self.apply)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell these weights from others."""
        sums = sorted(checksums_of(named(self.params)).items())
        return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def load(
    path: str | os.PathLike,
    *,
    encoder: str | None = None,
    features: str = "backbone",
    image_size: int | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    dtype: str | None = None,
    batch_size: int = 64,
    arch: str | None = None,
    heads: int | None = None,
    partial: bool = False,
) -> Encoder:
    """An encoder from a checkpoint of any format that `moco_jax.convert` reads.

    Args:
      path: a workdir, one of its steps, a file, or a folder of transformers.
      encoder: 'query' (None), which the papers evaluate, or 'key'; see `moco_jax.convert.read`.
      features: 'backbone'; 'projection' of the head that pre-training needs; 'logits' of the
        classifier that a probe or fine-tuning trained.
      image_size: S, pixels; None: the checkpoint's, or 224.
      mean: per channel, of pixels in [0, 1]; (): the checkpoint's, or ImageNet's.
      std: per channel; goes with `mean`.
      dtype: of the computation: 'float32', 'bfloat16'; None: the checkpoint's, or 'auto'.
      batch_size: images that a call computes at a time.
      arch: the architecture, where the file leaves it open; see `moco_jax.convert`.
      heads: attention heads of a ViT, where the file leaves them open.
      partial: take what fits of the file; the encoder itself has to be whole.

    Raises:
      MissingError: there is nothing at `path`.
      CheckpointError: it cannot be read, or lacks what is asked for.
      InputError: an argument is wrong.
    """
    choose("features", features, (*FEATURES, LOGITS))
    if batch_size < 1 or (image_size is not None and image_size < 1):
        raise InputError(f"batch_size={batch_size}, image_size={image_size}: expected at least 1")
    whole = convert.read(path, arch=arch, heads=heads, encoder=encoder, partial=partial)
    contents = select(whole, encoder if encoder in ROLES else None)
    if image_size:
        contents = resize(contents, image_size)
    config = _config(contents, image_size, dtype)
    networks = make_networks(config)._replace(predictor=None)
    channels, size = channels_of(contents), config.data.image_size
    params = encoder_weights(contents, networks, features, (size, size, channels))
    mean, std = _statistics(path, config, channels, tuple(mean), tuple(std))
    apply = make_apply(networks, features, mean, std)
    image = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    return Encoder(
        path=str(path),
        step=f"step {whole.position}" if contents.format == "ours" else "",
        config=config,
        features=features,
        num_features=jax.eval_shape(apply, params, image).shape[1],
        channels=channels,
        mean=mean,
        std=std,
        batch_size=batch_size,
        classes=whole.classes if features == LOGITS else (),
        params=params,
        apply=apply,
    )


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """The same encoder with random weights, by `seed`: what it would be without any training."""
    networks = make_networks(encoder.config)._replace(predictor=None)
    image = jnp.zeros((1, *encoder.image_shape))
    params, stats = jax.jit(networks.init)(jax.random.key(seed), image)
    used = encoder.params["params"]
    tree = {"params": {n: params[n] for n in used}, "stats": {n: stats[n] for n in used}}
    return dataclasses.replace(encoder, params=tree)


def _config(contents: Contents, image_size: int | None, dtype: str | None) -> ConfigDict:
    """The checkpoint's config as the encoder uses it."""
    c = contents.config.copy_and_resolve_references()
    c.data.image_size = image_size or c.data.image_size
    c.model.dtype = choose("dtype", dtype or c.model.dtype, DTYPES)
    c.method.bn_group_size = 0  # statistics of groups are averaged, as in evaluation
    if contents.format != "ours":
        c.data.source = ""  # the file does not tell
    return c


def _finite(start: int, count: int, on_device: jax.Array) -> np.ndarray:
    features = np.asarray(on_device)[:count]
    finite = np.isfinite(features).all(1)
    if not finite.all():
        raise NotFiniteError(start + np.flatnonzero(~finite))
    return features


def _statistics(
    path: str | os.PathLike,
    config: ConfigDict,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the channels: those given, the config's, or ImageNet's."""
    if not mean and not std:
        mean, std = tuple(config.data.mean), tuple(config.data.std)
    if not mean and not std and channels == 3:
        mean, std = pipeline.IMAGENET
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise InputError(
            f"{path}: mean={mean}, std={std}; expected {channels} numbers in each, std above 0"
        )
    return mean, std
