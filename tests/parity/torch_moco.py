"""MoCo v1/v2 and v3 in PyTorch, with the names of the official training files.

A second implementation, from the papers' algorithms, to hold ours against. Every tensor has the
name that the official code gives it, in its order.
"""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.models.vision_transformer import VisionTransformer

from tests.parity.torch_weights import randomize


class GroupNorm2d(nn.BatchNorm2d):
    """BatchNorm per group of consecutive images; the running statistics take the groups' mean.

    `groups` is set by `set_groups`; PyTorch's own BatchNorm sees one group after the other.
    """

    groups = 1

    def forward(self, x):
        if not self.training or self.groups == 1:
            return super().forward(x)
        out, means, variances = [], [], []
        for part in x.chunk(self.groups):
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            out.append(F.batch_norm(part, mean, var, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)
            variances.append(var)
        for running, new in ((self.running_mean, means), (self.running_var, variances)):
            running.mul_(1 - self.momentum).add_(self.momentum * torch.stack(new).mean(0))
        self.num_batches_tracked += 1
        return torch.cat(out)


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = GroupNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = GroupNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, GroupNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class SmallResNet(nn.Module):
    """ResNet-18 with torchvision's names and fewer channels."""

    def __init__(self, width, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = GroupNorm2d(width)
        inputs = width
        for stage in range(4):
            channels = width * 2**stage
            first = BasicBlock(inputs, channels, 2 if stage else 1)
            blocks = nn.Sequential(first, BasicBlock(channels, channels, 1))
            self.add_module(f"layer{stage + 1}", blocks)
            inputs = channels
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def set_groups(model, groups):
    for module in model.modules():
        if isinstance(module, GroupNorm2d):
            module.groups = groups
    return model


def key_encoder(query):
    key = copy.deepcopy(query)
    for p in key.parameters():
        p.requires_grad = False
    return key


@torch.no_grad()
def move_towards(key, query, m):
    for p, q in zip(key.parameters(), query.parameters(), strict=True):
        p.copy_(m * p + (1 - m) * q)


class QueueMoCo(nn.Module):
    """v1 (one linear layer) and v2 (an MLP), with shuffled keys."""

    def __init__(self, width=8, features=16, keys=24, mlp=True, groups=1):
        super().__init__()
        self.encoder_q = SmallResNet(width, features)
        if mlp:
            last = self.encoder_q.fc
            hidden = nn.Linear(last.in_features, last.in_features)
            self.encoder_q.fc = nn.Sequential(hidden, nn.ReLU(), last)
        randomize(set_groups(self.encoder_q, groups), 0)
        self.encoder_k = randomize(key_encoder(self.encoder_q), 1)
        self.register_buffer("queue", F.normalize(torch.randn(features, keys), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, x1, x2, m, order, temperature=0.2):
        q = F.normalize(self.encoder_q(x1), dim=1)
        with torch.no_grad():
            move_towards(self.encoder_k, self.encoder_q, m)
            k = F.normalize(self.encoder_k(x2[order]), dim=1)[torch.argsort(order)]
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.clone()], 1) / temperature
        start, size = int(self.queue_ptr), self.queue.shape[1]
        for i, row in enumerate(k):
            self.queue[:, (start + i) % size] = row
        self.queue_ptr[0] = (start + len(k)) % size
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def mlp_head(layers, inputs, hidden, outputs, last_bn=True):
    modules = []
    for i in range(layers):
        last = i == layers - 1
        sizes = (inputs if i == 0 else hidden, outputs if last else hidden)
        modules.append(nn.Linear(*sizes, bias=False))
        if not last:
            modules += [nn.BatchNorm1d(hidden), nn.ReLU()]
        elif last_bn:
            modules.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*modules)


class SymmetricMoCo(nn.Module):
    """v3: a predictor, both directions, the other images' keys as negatives."""

    def __init__(self, encoder, projector, predictor):
        super().__init__()
        name = "fc" if hasattr(encoder, "fc") else "head"
        delattr(encoder, name)
        setattr(encoder, name, projector)
        self.base_encoder = randomize(encoder, 0)
        self.momentum_encoder = randomize(key_encoder(encoder), 1)
        self.predictor = randomize(predictor, 2)
        for model in (self.base_encoder, self.momentum_encoder):
            if hasattr(model, "pos_embed"):
                model.pos_embed.data = sincos(model)

    def contrast(self, q, k, temperature):
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        return 2 * temperature * F.cross_entropy(q @ k.T / temperature, torch.arange(len(q)))

    def forward(self, x1, x2, m, temperature):
        q1 = self.predictor(self.base_encoder(x1))
        q2 = self.predictor(self.base_encoder(x2))
        with torch.no_grad():
            move_towards(self.momentum_encoder, self.base_encoder, m)
            k1, k2 = self.momentum_encoder(x1), self.momentum_encoder(x2)
        return self.contrast(q1, k2, temperature) + self.contrast(q2, k1, temperature)


def sincos(vit):
    """The position embedding in float32, as the official code computes it."""
    side, width = vit.patch_embed.grid_size[0], vit.pos_embed.shape[-1]
    omega = 1.0 / 10000.0 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    slow, fast = torch.meshgrid(*2 * [torch.arange(side, dtype=torch.float32)], indexing="ij")
    slow, fast = (torch.outer(x.flatten(), omega) for x in (slow, fast))
    table = torch.cat([slow.sin(), slow.cos(), fast.sin(), fast.cos()], 1)
    return torch.cat([torch.zeros(1, width), table])[None]


def v3_resnet(width=8, hidden=32, out=16):
    encoder = SmallResNet(width, 1)
    projector = mlp_head(2, encoder.fc.in_features, hidden, out)
    return SymmetricMoCo(encoder, projector, mlp_head(2, out, hidden, out, last_bn=False))


def v3_vit(width=32, depth=2, heads=4, hidden=32, out=16, size=64):
    encoder = VisionTransformer(
        img_size=size, patch_size=16, embed_dim=width, depth=depth, num_heads=heads, num_classes=1
    )
    # Far enough from its initial values that features differ between images: else the heads'
    # BatchNorm divides roundings by a standard deviation near zero.
    for name, p in encoder.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=2 / p.shape[-1] ** 0.5 if "weight" in name else 0.1)
    for p in (encoder.pos_embed, *encoder.patch_embed.parameters()):
        p.requires_grad = False
    return SymmetricMoCo(encoder, mlp_head(3, width, hidden, out), mlp_head(2, out, hidden, out))


class Lars(torch.optim.Optimizer):
    """MoCo v3's: the buffer `mu` holds the scaled gradient without the learning rate."""

    def __init__(self, params, lr, weight_decay, momentum=0.9, trust_coefficient=0.001):
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"trust_coefficient": trust_coefficient})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update + group["weight_decay"] * p
                    sizes = p.norm(), update.norm()
                    if all(size > 0 for size in sizes):
                        update = update * (group["trust_coefficient"] * sizes[0] / sizes[1])
                buffer = self.state[p].setdefault("mu", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(update)
                p.sub_(group["lr"] * buffer)


def cosine_rate(peak, epoch, epochs, warmup=0.0):
    if epoch < warmup:
        return peak * epoch / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def cosine_momentum(m, epoch, epochs):
    return 1 - 0.5 * (1 + math.cos(math.pi * epoch / epochs)) * (1 - m)


def training_file(model, optimizer, epoch, arch, scaler=None):
    """What the official code saves after an epoch; the model was wrapped for several devices."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    saved = {"epoch": epoch, "arch": arch, "state_dict": state, "optimizer": optimizer.state_dict()}
    return saved | ({"scaler": scaler} if scaler else {})


def save_training(model, path, arch, legacy=False, **extra):
    """Writes a training file of SGD after 200 epochs."""
    sgd = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    saved = training_file(model, sgd, 200, arch) | extra
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
