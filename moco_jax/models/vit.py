"""Vision Transformer (arXiv:2010.11929) as MoCo v3 (2104.02057) trains it.

B batch, H and W height and width in pixels, N tokens, C features of a token, A heads.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError
from moco_jax.models.attention import Attend, choose_attention, plain
from moco_jax.models.block import Block
from moco_jax.models.norm import BatchNorm
from moco_jax.models.remat import POLICIES, rematerialized
from moco_jax.models.tokens import (
    CONV_STEM_PATCH,
    ConvStem,
    patch_grid,
    patch_projection,
    sincos_position,
)


class Size(NamedTuple):
    """Features of a token, blocks, attention heads."""

    width: int
    depth: int
    heads: int


# MoCo v3's small has 12 heads, where timm's and DeiT's has 6.
SIZES = {
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 12),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
    "huge": Size(1280, 32, 16),
}
STEMS = ("patch", "conv")
POSITIONS = ("sincos", "learned", "none")
POOLS = ("cls", "avg_norm", "avg")
NORMS = ("layer", "batch")
NORM_EPS = 1e-6  # timm's, torchvision's and MoCo v3's


def _layer_norm(eps: float, dtype: Any, x: jax.Array, train: bool, name: str) -> jax.Array:
    del train
    # flax's default variance, E[x^2] - mean^2, cancels where the mean is large.
    norm = nn.LayerNorm(eps, use_fast_variance=False, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


def _batch_norm(groups: int, dtype: Any, x: jax.Array, train: bool, name: str) -> jax.Array:
    return BatchNorm(groups, dtype=dtype, name=name)(x, train)


class ViT(nn.Module):
    """Vision Transformer without its classifier.

    Attributes:
      width: C.
      depth: blocks.
      heads: A.
      patch: pixels of a patch's side.
      stem: 'patch': linear projection; 'conv': `ConvStem`.
      position: embedding 'sincos' (fixed; zero for the class token), 'learned', 'none'.
      pool: 'cls': the class token after the last norm; 'avg_norm', 'avg': no class token, the
        mean over the patches after the last norm and without it (2104.02057, section 4.3).
      norm: 'layer': LayerNorm; 'batch': BatchNorm over images and tokens.
      norm_eps: epsilon of every LayerNorm, added to the variance.
      drop_path: rate of `drop_path` in the last block; it grows linearly from 0 in the first.
      attend: the attention.
      remat: policy of `models.remat`, of every block.
      scan: run the blocks as one loop over their stacked parameters, which compiles in the time
        of one block; without drop_path and norm 'batch'. The parameters are the same.
      bn_groups: of every BatchNorm.
      dtype: of the computation; parameters, statistics and the output are float32.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    stem: str = "patch"
    position: str = "sincos"
    pool: str = "cls"
    norm: str = "layer"
    norm_eps: float = NORM_EPS
    drop_path: float = 0.0
    attend: Attend = plain
    remat: str = "none"
    scan: bool = False
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @property
    def num_features(self) -> int:
        """F, of the output."""
        return self.width

    @property
    def row_wise(self) -> bool:
        """Whether an image's features depend on no other image: there is no BatchNorm."""
        return self.norm == "layer" and self.stem == "patch"

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths, in the parameters, of the patch projection and the blocks, in order."""
        first = "patch_embed/conv1" if self.stem == "conv" else "patch_embed"
        return (first, *(f"blocks_{i}" for i in range(self.depth)))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Images (B, H, W, channels) to features (B, C), float32.

        In training with `drop_path` the caller gives the random stream 'dropout'.

        Raises:
          InputError: the patches do not tile the images.
        """
        if self.norm == "batch":
            norm = partial(_batch_norm, self.bn_groups, self.dtype)
        else:
            norm = partial(_layer_norm, self.norm_eps, self.dtype)
        x = self._tokens(x, train)
        block = partial(
            rematerialized(Block, self.remat), self.heads, norm, self.attend, self.dtype
        )
        if self.scan and not self.is_initializing():
            x = self._loop(block(parent=None), x, train)
        else:
            for i in range(self.depth):
                rate = self.drop_path * i / max(self.depth - 1, 1)
                x = block(rate, name=f"blocks_{i}")(x, train)
        if self.pool != "avg":
            x = norm(x, train, "norm")
        x = x[:, 0] if self.pool == "cls" else jnp.mean(x, 1, dtype=jnp.float32)
        return x.astype(jnp.float32)

    def _loop(self, block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
        """All blocks, as one that takes its parameters from stacks of theirs."""
        params = (self.variables["params"][f"blocks_{i}"] for i in range(self.depth))
        stacks = jax.tree.map(lambda *layers: jnp.stack(layers), *params)
        return jax.lax.scan(lambda x, p: (block.apply({"params": p}, x, train), None), x, stacks)[0]

    def _tokens(self, x: jax.Array, train: bool) -> jax.Array:
        """Images (B, H, W, channels) to tokens (B, N, C), the class token first."""
        b, (rows, columns) = x.shape[0], patch_grid(*x.shape[1:3], self.patch)
        if self.stem == "conv":
            x = ConvStem(self.width, self.bn_groups, self.dtype, name="patch_embed")(x, train)
        else:
            x = patch_projection(self.width, self.patch, self.dtype, "patch_embed")(x)
        x = x.reshape(b, rows * columns, self.width)
        if self.position == "sincos":
            x += jnp.asarray(sincos_position(rows, columns, self.width), x.dtype)
        if self.pool == "cls":
            token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(x.dtype), (b, 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.position == "learned":
            shape = (1, *x.shape[1:])
            x += self.param("pos_embed", nn.initializers.normal(0.02), shape).astype(x.dtype)
        return x


def make_vit(size: str, model: ConfigDict, image_size: int, bn_groups: int, dtype: Any) -> ViT:
    """Builds the ViT of `size` that `model.vit` describes.

    A conv stem takes the place of one block, unless `model.vit.depth` states how many there are.

    Args:
      size: key of SIZES.
      model: `config.model`.
      image_size: pixels.
      bn_groups: groups of the batch with BatchNorm statistics of their own.
      dtype: of the computation.

    Raises:
      InputError: an unknown name, or sizes that do not fit each other.
    """
    v = model.vit
    stem = choose("model.vit.stem", v.stem, STEMS)
    width, heads = v.width or SIZES[size].width, v.heads or SIZES[size].heads
    vit = ViT(
        width=width,
        depth=v.depth or SIZES[size].depth - (stem == "conv"),
        heads=heads,
        patch=v.patch,
        stem=stem,
        position=choose("model.vit.position", v.position, POSITIONS),
        pool=choose("model.vit.pool", v.pool, POOLS),
        norm=choose("model.vit.norm", v.norm, NORMS),
        norm_eps=v.norm_eps,
        drop_path=v.drop_path,
        attend=choose_attention(v.attention, width // max(heads, 1), dtype),
        remat=choose("model.remat", model.remat, POLICIES),
        scan=v.scan,
        bn_groups=bn_groups,
        dtype=dtype,
    )
    _check(vit)
    patch_grid(image_size, image_size, vit.patch)
    return vit


def _check(vit: ViT) -> None:
    """Raises InputError where the sizes of a ViT do not fit each other."""
    for field in ("width", "depth", "heads", "patch"):
        if getattr(vit, field) < 1:
            raise InputError(f"model.vit.{field}={getattr(vit, field)} must be at least 1")
    if not 0 <= vit.drop_path < 1:
        raise InputError(f"model.vit.drop_path={vit.drop_path} must be 0 or more and below 1")
    if not vit.norm_eps > 0:
        raise InputError(f"model.vit.norm_eps={vit.norm_eps} must be above 0")
    if vit.norm == "batch" and vit.norm_eps != NORM_EPS:
        raise InputError(
            f"model.vit.norm_eps={vit.norm_eps:g} is LayerNorm's, and norm='batch' has none: "
            f"expected {NORM_EPS:g}"
        )
    if vit.scan and (vit.drop_path or vit.norm == "batch"):
        raise InputError(
            f"model.vit.scan needs blocks that are all alike and have no statistics: "
            f"drop_path={vit.drop_path} must be 0 and norm={vit.norm!r} must be 'layer'"
        )
    if vit.stem == "conv" and vit.patch != CONV_STEM_PATCH:
        raise InputError(
            f"model.vit.patch={vit.patch} must be {CONV_STEM_PATCH} with model.vit.stem='conv'"
        )
    multiple = 8 if vit.stem == "conv" else 4 if vit.position == "sincos" else 1
    if vit.width % multiple:
        raise InputError(
            f"model.vit.width={vit.width} must be a multiple of {multiple} with "
            f"stem={vit.stem!r} and position={vit.position!r}; "
            f"nearest: {max(1, round(vit.width / multiple)) * multiple}"
        )
    if vit.width % vit.heads:
        divisors = [h for h in range(1, vit.width + 1) if vit.width % h == 0]
        raise InputError(
            f"model.vit.heads={vit.heads} must divide the width {vit.width}; "
            f"nearest: {min(divisors, key=lambda h: abs(h - vit.heads))}"
        )
