"""Learned position embeddings for another grid of patches.

R old and S new positions along a side, C features of a token.
"""

import logging

import jax
import numpy as np

from moco_jax.convert.contents import Contents
from moco_jax.models.tokens import patch_grid

log = logging.getLogger(__name__)


def interpolate(embedding: np.ndarray, side: int, tokens: int) -> np.ndarray:
    """Resamples the grid of a position embedding, bicubic with antialiasing, as timm does.

    Args:
      embedding: (1, tokens + R * R, C) float32.
      side: S.
      tokens: class tokens in front, which stay as they are.

    Returns:
      (1, tokens + S * S, C) float32.
    """
    old = round((embedding.shape[1] - tokens) ** 0.5)
    grid = embedding[0, tokens:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic", antialias=True)
    grid = np.asarray(grid).reshape(1, side * side, -1)
    return np.concatenate([embedding[:, :tokens], grid], axis=1)


def resize(contents: Contents, image_size: int) -> Contents:
    """Contents for images of another size, and says what that means for the position embedding.

    A learned one is interpolated, a fixed one is made anew, and a ResNet has none.

    Args:
      contents: an encoder.
      image_size: pixels.

    Raises:
      InputError: the patches do not tile such images.
    """
    model, old = contents.config.model, contents.config.data.image_size
    if image_size == old or model.name.startswith("resnet"):
        return contents
    side, _ = patch_grid(image_size, image_size, model.vit.patch)
    tokens, learned = int(model.vit.pool == "cls"), model.vit.position == "learned"
    leaves = {}
    for name, leaf in contents.leaves.items():
        if not name.endswith("backbone/pos_embed"):
            leaves[name] = leaf
        elif learned and not name.startswith("optimizer/"):
            leaves[name] = interpolate(leaf, side, tokens)
    how = "interpolated" if learned else "fixed, made anew"
    log.info(
        "Position embedding: %s, from %d x %d patches to %d x %d",
        how, old // model.vit.patch, old // model.vit.patch, side, side,
    )  # fmt: skip
    c = contents.config.copy_and_resolve_references()
    c.data.image_size = image_size
    return contents._replace(config=c, leaves=leaves)
