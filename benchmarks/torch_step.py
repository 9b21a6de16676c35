"""The training step of MoCo v1, v2 and v3 in PyTorch, written to be fast: the peer of `step`.

timm's backbones, channels last, autocast to bfloat16 where ours computes in it, fused attention,
fused optimizer, the moving average in one call for all parameters; whole or by torch.compile.
On one device, so that BatchNorm is over its batch; LARS, which PyTorch lacks, is SGD here, which
does less. B batch, C features, K keys in the queue.
"""

import copy
from collections.abc import Iterable

import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from moco_jax.config import choose
from moco_jax.errors import InputError
from moco_jax.models.resnet import DEPTHS
from moco_jax.models.tokens import sincos_position
from moco_jax.models.vit import SIZES

METHODS = ("moco", "moco_v3")


def make_backbone(c: ConfigDict, channels: int) -> tuple[nn.Module, int]:
    """The backbone of a config and its number of features.

    Raises:
      InputError: timm has none like it.
    """
    m, size = c.model, c.data.image_size
    if m.name.startswith("resnet"):
        return _resnet(m, channels)
    from timm.models.vision_transformer import VisionTransformer

    v, named = m.vit, SIZES[m.name.removeprefix("vit_")]
    if (v.stem, v.norm, v.pool, v.position) != ("patch", "layer", "cls", "sincos"):
        raise InputError("model.vit: the peer has stem 'patch', norm 'layer', pool 'cls' and "
                         "position 'sincos' alone")  # fmt: skip
    width, depth, heads = (v[key] or getattr(named, key) for key in ("width", "depth", "heads"))
    net = VisionTransformer(size, v.patch, channels, 0, "token", width, depth, heads)
    side = size // v.patch
    with torch.no_grad():
        net.pos_embed[:, 1:] = torch.from_numpy(sincos_position(side, side, width))
        net.pos_embed[:, :1] = 0
    net.pos_embed.requires_grad_(False)
    if c.optim.freeze:
        net.patch_embed.requires_grad_(False)
    return net, width


def _resnet(m: ConfigDict, channels: int) -> tuple[nn.Module, int]:
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    if m.resnet.width != 1:
        raise InputError(f"model.resnet.width={m.resnet.width}: the peer's is 1")
    stages, bottleneck = DEPTHS[int(m.name.removeprefix("resnet"))]
    net = ResNet(Bottleneck if bottleneck else BasicBlock, stages, 0, channels)
    if m.resnet.stem == "cifar":
        net.conv1, net.maxpool = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.Identity()
    return net, net.num_features


def make_head(record: ConfigDict, features: int) -> nn.Module:
    """A projection or prediction head."""
    layers, width = [], features
    for i in range(1, record.layers + 1):
        last = i == record.layers
        out = record.out if last else record.hidden or features
        layers.append(nn.Linear(width, out, bias=record.bias))
        if record.last_bn if last else record.bn:
            layers.append(nn.BatchNorm1d(out, affine=not last))
        layers += [] if last else [nn.ReLU(inplace=True)]
        width = out
    return nn.Sequential(*layers)


def _optimizer(optim: ConfigDict, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    if optim.name in ("adamw", "lamb"):
        return torch.optim.AdamW(
            params, optim.base_lr, (optim.b1, optim.b2), weight_decay=optim.weight_decay, fused=True
        )
    momentum, decay = optim.momentum, optim.weight_decay
    return torch.optim.SGD(params, optim.base_lr, momentum, weight_decay=decay, fused=True)


class Peer:
    """Networks, queue and optimizer of a config, with its step."""

    def __init__(self, c: ConfigDict, channels: int, device: str, bfloat16: bool, compiled: bool):
        """Makes all on a device; `compiled`: both encoders by torch.compile.

        Raises:
          InputError: a method or a backbone that the peer does not have.
        """
        choose("method.name, for the peer", c.method.name, METHODS)
        torch.manual_seed(c.seed)
        self._t, self._device, self._bfloat16 = c.method, device, bfloat16
        backbone, features = make_backbone(c, channels)
        target = nn.Sequential(backbone, make_head(c.method.projector, features))
        self._target = target.to(device, memory_format=torch.channels_last)
        encoder = copy.deepcopy(self._target)
        self._target.requires_grad_(False)
        head = make_head(c.method.predictor, c.method.projector.out).to(device)
        self.parameters = [*encoder.parameters(), *head.parameters()]
        self._pairs = list(self._target.parameters()), list(encoder.parameters())
        self._optimizer = _optimizer(c.optim, [p for p in self.parameters if p.requires_grad])
        self._queue = normalize(torch.randn(c.method.queue_size, c.method.projector.out)).to(device)
        self._at = 0
        online = nn.Sequential(encoder, head)
        self._online = torch.compile(online) if compiled else online
        self._keys = torch.compile(self._target) if compiled else self._target

    def step(self, *views: torch.Tensor) -> torch.Tensor:
        """One update from two views, each (B, channels, S, S), channels last; the loss."""
        with torch.no_grad():
            torch._foreach_lerp_(*self._pairs, 1 - self._t.ema)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16):
            loss = (self._v3 if self._t.name == "moco_v3" else self._queued)(*views)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _v3(self, *views: torch.Tensor) -> torch.Tensor:
        q = [normalize(self._online(view).float()) for view in views]
        with torch.no_grad():
            k = [normalize(self._keys(view).float()) for view in views]
        labels, tau = torch.arange(len(q[0]), device=self._device), self._t.temperature
        losses = [cross_entropy(a @ b.T / tau, labels) for a, b in zip(q, k[::-1])]
        return 2 * tau * sum(losses)

    def _queued(self, *views: torch.Tensor) -> torch.Tensor:
        q = normalize(self._online(views[0]).float())
        with torch.no_grad():
            order = torch.randperm(len(q), device=self._device)
            k = normalize(self._keys(views[1][order]).float())[torch.argsort(order)]
        own = (q * k).sum(1, keepdim=True)
        logits = torch.cat([own, q @ self._queue.clone().T], 1) / self._t.temperature
        self._queue[(self._at + torch.arange(len(k))) % len(self._queue)] = k
        self._at = (self._at + len(k)) % len(self._queue)
        return cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=self._device))
