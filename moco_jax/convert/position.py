"""Learned position embeddings for another grid of patches.

R old and S new positions along a side, C features of a token.
"""

import logging

import numpy as np

from moco_jax.convert.contents import Contents
from moco_jax.models.tokens import patch_grid

log = logging.getLogger(__name__)

CUBIC = -0.5  # slope of the kernel at 1: Keys's, PIL's, and PyTorch's with antialiasing


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
    grid = embedding[0, tokens:].reshape(old, old, -1).astype(np.float64)
    weights = _weights(old, side)
    grid = np.einsum("sr,tq,rqc->stc", weights, weights, grid, optimize=True)
    grid = grid.reshape(1, side * side, -1).astype(np.float32)
    return np.concatenate([embedding[:, :tokens], grid], axis=1)


def _weights(old: int, new: int) -> np.ndarray:
    """Weights (S, R) of the old positions in each new one."""
    scale = old / new
    centers = scale * (np.arange(new) + 0.5)
    distance = np.abs(np.arange(old) + 0.5 - centers[:, None]) / max(scale, 1.0)
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def resize(contents: Contents, image_size: int) -> Contents:
    """Contents for images of another size, and says what that means for the position embedding.

    A learned one is interpolated, a fixed one is made anew, and a ResNet has none.

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
