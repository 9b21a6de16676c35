"""Mixup and CutMix: each image of a batch is mixed with a partner, and so are their targets.

One draw serves the whole batch, as in DeiT (arXiv:2012.12877, table 9). The partners are the batch
in reverse: the order of the data is random already, and where the batch is split over devices each
of them sends its images to one other, while a random permutation would send all of them to all.

B batch (over all devices), H and W height and width in pixels, C channels, K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mix(NamedTuple):
    """How a batch is mixed.

    Attributes:
      share: float32 (), of an image's own target in the mixed one.
      box: float32 (4,), top, left, height and width in pixels of what the partner fills; all 0
        in mixup, where the partner is spread over the whole image.
    """

    share: jax.Array
    box: jax.Array


def sample_mix(
    key: jax.Array,
    height: int,
    width: int,
    mixup: float,
    cutmix: float,
    p: float = 1.0,
    cutmix_p: float = 0.5,
) -> Mix:
    """Draws the mixing of one batch.

    Args:
      key: random key.
      height: H.
      width: W.
      mixup: a of the Beta(a, a) of which the share is drawn (arXiv:1710.09412); 0: no mixup.
      cutmix: the same for CutMix (arXiv:1905.04899); 0: no CutMix.
      p: probability that the batch is mixed at all.
      cutmix_p: probability of CutMix rather than mixup, where both are on.
    """
    p_key, cut_key, mixup_key, cutmix_key, centre_key = jax.random.split(key, 5)
    identity = Mix(jnp.float32(1.0), jnp.zeros((4,)))
    mixed = cut = identity
    if mixup:
        mixed = identity._replace(share=jax.random.beta(mixup_key, mixup, mixup, (), jnp.float32))
    if cutmix:
        share = jax.random.beta(cutmix_key, cutmix, cutmix, (), jnp.float32)
        cut = cutmix_box(share, jax.random.uniform(centre_key, (2,)), height, width)
    cuts = jax.random.bernoulli(cut_key, cutmix_p if mixup and cutmix else float(cutmix > 0))
    chosen = jax.tree.map(lambda a, b: jnp.where(cuts, a, b), cut, mixed)
    applied = jax.random.bernoulli(p_key, p)
    return jax.tree.map(lambda a, b: jnp.where(applied, a, b), chosen, identity)


def cutmix_box(share: jax.Array, centre: jax.Array, height: int, width: int) -> Mix:
    """The box of CutMix, with the image's aspect ratio and cut off at its borders.

    Args:
      share: float32 (), of the image that is to remain; the box has the rest.
      centre: float32 (2,), of the box, as shares of height and width in [0, 1).
      height: H.
      width: W.

    Returns:
      The box, and the share of the image that does remain, after rounding and cutting off.
    """
    size = jnp.array([height, width], jnp.float32)
    sides = jnp.floor(size * jnp.sqrt(1.0 - share))
    start = jnp.floor(size * centre) - jnp.floor(sides / 2)
    stop = jnp.minimum(start + sides, size)
    start = jnp.maximum(start, 0.0)
    sides = stop - start
    return Mix(1.0 - jnp.prod(sides) / (height * width), jnp.concatenate([start, sides]))


def mix_images(images: jax.Array, mix: Mix) -> jax.Array:
    """Mixes images (B, H, W, C) float32 with those in reverse order."""
    height, width = mix.box[2:]
    outside = jnp.where(box_mask(mix.box, *images.shape[1:3]), 0.0, 1.0)
    own = jnp.where(height * width > 0, outside, mix.share)
    return _with_partner(images, own[None, :, :, None])


def box_mask(box: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels of an image lie in a box: bool (H, W).

    Args:
      box: (4,), top, left, height and width in pixels.
      height: H, of the image.
      width: W.
    """
    top, left, box_height, box_width = box
    rows, columns = (jnp.arange(size, dtype=box.dtype) for size in (height, width))
    inside_rows = (rows >= top) & (rows < top + box_height)
    inside_columns = (columns >= left) & (columns < left + box_width)
    return inside_rows[:, None] & inside_columns[None, :]


def mix_targets(targets: jax.Array, mix: Mix) -> jax.Array:
    """Mixes targets (B, K) float32 with those in reverse order."""
    return _with_partner(targets, mix.share[None, None])


def _with_partner(x: jax.Array, own: jax.Array) -> jax.Array:
    return own * x + (1.0 - own) * x[::-1]
