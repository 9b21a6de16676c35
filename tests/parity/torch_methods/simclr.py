"""SimCLR in PyTorch: the cross entropy of 2B features over the 2B - 1 others (2002.05709)."""

import torch
from torch.nn import functional as F

from tests.parity.torch_methods.networks import Method, backbone, head

TEMPERATURE = 0.5


class SimClr(Method):
    def __init__(self, vit):
        super().__init__()
        self.backbone, features = backbone(vit)
        self.projector = head((features, 32, 16), last_bn=True)

    def forward(self, views, index, drawn):
        z = F.normalize(torch.cat([self.project(view) for view in views]), dim=1)
        batch = len(views[0])
        own = torch.eye(2 * batch, dtype=torch.bool)
        logits = (z @ z.T / TEMPERATURE).masked_fill(own, -torch.inf)
        return F.cross_entropy(logits, torch.arange(2 * batch).roll(batch))
