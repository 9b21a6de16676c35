"""Instance discrimination with a memory bank in PyTorch (1805.01978; 1911.05722, figure 2b)."""

import math

import torch
from torch.nn import functional as F

from tests.parity.torch_methods.networks import Method, backbone, head

TEMPERATURE, IMAGES, GROUPS = 0.2, 40, 2


class MemoryBank(Method):
    """`drawn` are the rows that the batch is compared with."""

    def __init__(self, vit, nce):
        super().__init__()
        self.backbone, features = backbone(vit, GROUPS)
        self.projector = head((features, 16), bias=True)
        self.bank, self.nce, self.z = F.normalize(torch.randn(IMAGES, 16)), nce, None

    def forward(self, views, index, drawn):
        self.index, self.q = index, F.normalize(self.project(views[0]), dim=1)
        positive = (self.q * self.bank[index]).sum(1, keepdim=True) / TEMPERATURE
        negative = self.q @ self.bank[drawn].T / TEMPERATURE
        if self.nce:
            return self.estimation(positive.exp(), negative.exp())
        # A row of the image itself is no negative.
        negative = negative.masked_fill(drawn[None] == index[:, None], -torch.inf)
        logits = torch.cat([positive, negative], 1)
        return F.cross_entropy(logits, torch.zeros(len(index), dtype=torch.long))

    def estimation(self, positive, negative):
        if self.z is None:
            self.z = torch.cat([positive, negative], 1).detach().mean() * IMAGES
        noise = negative.shape[1] / IMAGES
        right = torch.log(positive / self.z / (positive / self.z + noise))
        wrong = math.log(noise) - torch.log(negative / self.z + noise)
        return -(right.sum() + wrong.sum()) / len(positive)

    def after_step(self, number):
        with torch.no_grad():
            new = F.normalize(0.5 * self.bank[self.index] + 0.5 * self.q, dim=1)
            self.bank[self.index] = new
