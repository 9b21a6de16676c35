"""Raw pixels as features: what a classifier gets out of images without any network.

B batch, H and W height and width, C channels.
"""

import jax
from flax import linen as nn

MAX_SIDE = 32  # pixels


class Pixels(nn.Module):
    """A backbone without parameters: the image, at most 32 x 32, as one vector."""

    layers: tuple[str, ...] = ()
    row_wise: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Images (B, H, W, C) to (B, features); larger ones are resized with antialiasing."""
        del train
        side = min(x.shape[1], MAX_SIDE)
        x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "bilinear")
        return x.reshape(len(x), -1)
