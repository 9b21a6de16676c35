"""End-to-end training in PyTorch: the batch's keys are the dictionary (1911.05722, figure 2a)."""

import torch
from torch.nn import functional as F

from tests.parity.torch_methods.networks import Method, backbone, head

TEMPERATURE, GROUPS = 0.2, 2


class EndToEnd(Method):
    """One encoder makes queries and keys; `drawn` is the order of the keys' BatchNorm groups."""

    def __init__(self, vit):
        super().__init__()
        self.backbone, features = backbone(vit, GROUPS)
        self.projector = head((features, 16), bias=True)

    def forward(self, views, index, drawn):
        q = F.normalize(self.project(views[0]), dim=1)
        k = F.normalize(self.project(views[1][drawn]), dim=1)[torch.argsort(drawn)]
        return F.cross_entropy(q @ k.T / TEMPERATURE, torch.arange(len(q)))
