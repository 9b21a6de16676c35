"""BYOL in PyTorch: predictions regress the momentum encoder's projections (2006.07733)."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.parity.torch_methods.networks import Method, backbone, head
from tests.parity.torch_moco import cosine_momentum, key_encoder, move_towards
from tests.parity.torch_weights import randomize

MOMENTUM, STEPS = 0.9, 20


class Byol(Method):
    """The average is taken from the online weights before the step, as MoCo v3 does."""

    def __init__(self, vit):
        super().__init__()
        self.backbone, features = backbone(vit)
        self.projector = head((features, 32, 16), bias=True)
        self.predictor = head((16, 32, 16), bias=True)
        self.target = key_encoder(nn.ModuleList([self.backbone, self.projector]))
        randomize(self.target, 2)
        if vit:
            self.target[0].pos_embed.data.copy_(self.backbone.pos_embed)
        self.step = 0

    def forward(self, views, index, drawn):
        predictions = [self.predictor(self.project(view)) for view in views]
        with torch.no_grad():
            online = nn.ModuleList([self.backbone, self.projector])
            move_towards(self.target, online, cosine_momentum(MOMENTUM, self.step, STEPS))
            first, second = (self.target[1](self.target[0](view)) for view in views)
        pairs = zip(predictions, (second, first))
        return sum((2 - 2 * F.cosine_similarity(p, z)).mean() for p, z in pairs)

    def after_step(self, number):
        self.step = number + 1
