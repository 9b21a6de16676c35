"""MoCo v2 in plain PyTorch with torchvision's transforms, for benchmarks/cifar10.py: the peer.

The network is the parity tests', with PyTorch's usual initial values. One process reads and trains.
"""

import pathlib
import resource
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from moco_jax.config import ConfigDict
from tests.parity import torch_moco

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import transforms


def views(c: ConfigDict) -> transforms.Compose:
    """The recipe's view by torchvision's operations."""
    v = c.data.view1
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(c.data.image_size, scale=v.crop_area),
            transforms.RandomHorizontalFlip(v.flip_p),
            transforms.RandomApply([transforms.ColorJitter(*v.jitter)], p=v.jitter_p),
            transforms.RandomGrayscale(v.grayscale_p),
            transforms.ToTensor(),
            transforms.Normalize(c.data.mean, c.data.std),
        ]
    )


def initial(module: nn.Module) -> None:
    """Kaiming's values for convolutions; the last BatchNorm of a block starts at 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, torch_moco.BasicBlock):
        nn.init.zeros_(module.bn2.weight)


class Moco(nn.Module):
    """Both encoders and the queue, with the names of the official training files."""

    def __init__(self, c: ConfigDict):
        super().__init__()
        groups = c.data.batch_size // c.method.bn_group_size
        width, out = round(64 * c.model.resnet.width), c.method.projector.out
        self.encoder_q = torch_moco.SmallResNet(width, out).apply(initial)
        torch_moco.set_groups(self.encoder_q, groups)
        self.encoder_k = torch_moco.key_encoder(self.encoder_q)
        queue = F.normalize(torch.randn(out, c.method.queue_size), dim=0)
        self.register_buffer("queue", queue)
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.m, self.temperature = c.method.ema, c.method.temperature

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The loss of a batch; the keys join the queue."""
        q = F.normalize(self.encoder_q(x1), dim=1)
        with torch.no_grad():
            torch_moco.move_towards(self.encoder_k, self.encoder_q, self.m)
            order = torch.randperm(len(x2))
            k = F.normalize(self.encoder_k(x2[order]), dim=1)[torch.argsort(order)]
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.clone()], 1) / self.temperature
        start = int(self.queue_ptr)  # the batch divides the queue
        self.queue[:, start : start + len(k)] = k.T
        self.queue_ptr[0] = (start + len(k)) % self.queue.shape[1]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def train(c: ConfigDict, path: pathlib.Path) -> dict[str, float]:
    """Trains for `c.epochs` and writes a training file of the official format.

    Returns:
      `cpu_seconds` of it all, `images_per_second` by the clock.
    """
    torch.manual_seed(c.seed)
    np.random.seed(c.seed)
    begin, usage = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    files = sorted(pathlib.Path(c.data.source.removeprefix("folder:"), "train").glob("*/*"))
    images = [Image.open(file).convert("RGB") for file in files]
    batch, transform, model = c.data.batch_size, views(c), Moco(c).train()
    peak = c.optim.base_lr * batch / 256
    optimizer = torch.optim.SGD(  # the key encoder's have no gradient and stay as they are
        model.parameters(), peak, momentum=c.optim.momentum, weight_decay=c.optim.weight_decay
    )
    steps = int(c.epochs * len(images) / batch)
    order = np.concatenate(
        [np.random.permutation(len(images)) for _ in range(int(np.ceil(c.epochs)))]
    )
    for step in range(steps):
        chosen = [images[i] for i in order[step * batch : (step + 1) * batch]]
        x1, x2 = (torch.stack([transform(image) for image in chosen]) for _ in range(2))
        optimizer.param_groups[0]["lr"] = torch_moco.cosine_rate(peak, step, steps)
        loss = model(x1, x2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"PyTorch, step {step}/{steps}: loss {loss.item():.3f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch_moco.training_file(model, optimizer, int(c.epochs), "resnet18"), path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
        "images_per_second": steps * batch / (time.monotonic() - begin),
    }
