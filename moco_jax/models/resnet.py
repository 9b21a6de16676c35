"""ResNet (arXiv:1512.03385) with the stride in the 3x3 convolution, as torchvision's.

B batch, H and W height and width, C channels, F features.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from moco_jax.config import ConfigDict, choose
from moco_jax.errors import InputError
from moco_jax.models.norm import BatchNorm
from moco_jax.models.remat import POLICIES, rematerialized

# Blocks of each stage, and whether they are bottlenecks (table 1).
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
STEMS = ("imagenet", "cifar")
EXPANSION = 4  # output channels of a bottleneck, as a multiple of its inner ones

# Kaiming normal for ReLU over the fan-out (arXiv:1502.01852).
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(
    features: int, size: int, stride: int, dtype: Any, name: str, dilation: int = 1
) -> nn.Conv:
    """A convolution padded as PyTorch's: evenly, whereas "SAME" depends on the image size."""
    return nn.Conv(
        features, (size, size), stride, padding=size // 2 * dilation, kernel_dilation=dilation,
        use_bias=False, dtype=dtype, kernel_init=_kernel_init, conv_general_dilated=convolve,
        name=name,
    )  # fmt: skip


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` without groups, fast on the smallest maps too.

    XLA exchanges image and kernel where the kernel is the larger, and on CPUs has no fast program
    for that: convolutions to 2x2 take up to nine times as long as one product of the patches
    (benchmarks/RESULTS.md).

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, F).
      strides: down and across.
      padding: pixels before and after, down and across.
      **options: the others of `lax.conv_general_dilated`, as `nn.Conv` gives them.

    Returns:
      (B, H', W', F).
    """
    height, width = kernel.shape[:2]
    down, across = strides
    rows = (x.shape[1] + sum(padding[0]) - height) // down + 1
    columns = (x.shape[2] + sum(padding[1]) - width) // across + 1
    dilated = max(options.get("rhs_dilation") or (1,)) > 1
    if max(rows, columns) > 2 or height == width == 1 or dilated:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    patches = [
        x[:, i : i + rows * down : down, j : j + columns * across : across]
        for i in range(height)
        for j in range(width)
    ]
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(patches, -1), kernel, precision=options.get("precision"))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 in a bottleneck.

    Attributes:
      features: inner channels; the output has as many, times EXPANSION in a bottleneck.
      stride: of the (first) 3x3 convolution.
      bottleneck: which of the two kinds.
      zero_init_residual: start the last BatchNorm at scale 0, and the block as the identity.
      bn_groups: of every BatchNorm.
      dtype: of the computation.
      dilation: of the 3x3 convolutions.
    """

    features: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    bn_groups: int
    dtype: Any
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) to (B, H/stride, W/stride, output channels); for `mask` see BatchNorm."""
        out = self.features * (EXPANSION if self.bottleneck else 1)
        if self.bottleneck:
            layers = [(self.features, 1, 1), (self.features, 3, self.stride), (out, 1, 1)]
        else:
            layers = [(self.features, 3, self.stride), (out, 3, 1)]
        y = x
        for i, (features, size, stride) in enumerate(layers, 1):
            last = i == len(layers)
            scale = nn.initializers.constant(float(not (last and self.zero_init_residual)))
            dilation = self.dilation if size > 1 else 1
            y = _conv(features, size, stride, self.dtype, f"conv{i}", dilation)(y)
            y = BatchNorm(self.bn_groups, scale_init=scale, dtype=self.dtype, name=f"bn{i}")(
                y, train, mask
            )
            y = y if last else nn.relu(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = _conv(out, 1, self.stride, self.dtype, "downsample_conv")(x)
            x = BatchNorm(self.bn_groups, dtype=self.dtype, name="downsample_bn")(x, train, mask)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet without its classifier.

    Attributes:
      stages: blocks of each of the four stages.
      bottleneck: the kind of block.
      width: multiplies every channel count.
      stem: 'imagenet': 7x7 convolution of stride 2, then 3x3 max pooling of stride 2; 'cifar':
        3x3 convolution of stride 1.
      zero_init_residual: see `Block`.
      remat: policy of `models.remat`, of every block.
      bn_groups: of every BatchNorm.
      dtype: of the computation; parameters and BatchNorm statistics are float32.
      dilated: the last stage's stride is 1, and its 3x3 convolutions are dilated by 2: for dense
        tasks, twice as fine a map.
    """

    stages: tuple[int, ...]
    bottleneck: bool
    width: float = 1.0
    stem: str = "imagenet"
    zero_init_residual: bool = False
    remat: str = "none"
    bn_groups: int = 1
    dtype: Any = jnp.float32
    dilated: bool = False

    @property
    def num_features(self) -> int:
        """F, of the output."""
        return self._channels(len(self.stages) - 1) * (EXPANSION if self.bottleneck else 1)

    @property
    def row_wise(self) -> bool:
        """Whether an image's features depend on no other image: BatchNorm makes them."""
        return False

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths, in the parameters, of the stem's convolution and the blocks, in order."""
        blocks = ((s, i) for s, count in enumerate(self.stages, 1) for i in range(count))
        return ("conv1", *(f"layer{stage}_{i}" for stage, i in blocks))

    def _channels(self, stage: int) -> int:
        return round(64 * 2**stage * self.width)

    def pool(self, x: jax.Array) -> jax.Array:
        """The stem's pooling of (B, H, W, C), 3 x 3 with stride 2; an export may replace it."""
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, maps: bool = False
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Images (B, H, W, C) to averaged features (B, F), float32.

        Args:
          x: images.
          train: whether BatchNorm takes the statistics of x.
          maps: for dense tasks: the maps of the four stages in place of the features, of dtype
            `dtype`; C2 to C5 of arXiv:1612.03144, at 1/4 to 1/32 of the image's sides with the
            'imagenet' stem.
        """
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = _conv(self._channels(0), size, stride, self.dtype, "conv1")(x)
        x = nn.relu(BatchNorm(self.bn_groups, dtype=self.dtype, name="bn1")(x, train))
        if self.stem == "imagenet":
            x = self.pool(x)
        block, stages = rematerialized(Block, self.remat), []
        for stage, blocks in enumerate(self.stages):
            dilated = self.dilated and stage == len(self.stages) - 1
            for i in range(blocks):
                x = block(
                    features=self._channels(stage),
                    stride=2 if stage > 0 and i == 0 and not dilated else 1,
                    bottleneck=self.bottleneck,
                    zero_init_residual=self.zero_init_residual,
                    bn_groups=self.bn_groups,
                    dtype=self.dtype,
                    dilation=2 if dilated else 1,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            stages.append(x)
        return tuple(stages) if maps else jnp.mean(x, (1, 2), dtype=jnp.float32)


def make_resnet(
    depth: int, model: ConfigDict, image_size: int, bn_groups: int, dtype: Any
) -> ResNet:
    """Builds the ResNet of `depth` layers that `model.resnet` describes.

    Args:
      depth: key of DEPTHS.
      model: `config.model`.
      image_size: pixels; not read.
      bn_groups: groups of the batch with BatchNorm statistics of their own.
      dtype: of the computation.

    Raises:
      InputError: unknown stem, or a width that leaves a stage without channels.
    """
    del image_size  # any will do
    record = model.resnet
    if round(64 * record.width) < 1:
        raise InputError(f"model.resnet.width={record.width} leaves no channel; nearest: {1 / 64}")
    stages, bottleneck = DEPTHS[depth]
    return ResNet(
        stages=stages,
        bottleneck=bottleneck,
        width=record.width,
        stem=choose("model.resnet.stem", record.stem, STEMS),
        zero_init_residual=record.zero_init_residual,
        remat=choose("model.remat", model.remat, POLICIES),
        bn_groups=bn_groups,
        dtype=dtype,
    )
