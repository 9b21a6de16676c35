"""SwAV in PyTorch: views predict each other's balanced assignments to prototypes (2006.09882)."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.parity.torch_methods.networks import Method, backbone, head

TEMPERATURE, EPSILON, ITERATIONS, PROTOTYPES = 0.1, 0.05, 3, 24
FULL = 2  # views that are assigned; the others only predict
FROZEN = 5  # steps before the prototypes learn
QUEUE, QUEUE_FROM = 32, 8  # features of each full-size view; the step from which they count


def balanced(scores):
    q = torch.exp(scores / EPSILON).T
    q = q / q.sum()
    for _ in range(ITERATIONS):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


class Swav(Method):
    def __init__(self, vit, queue):
        super().__init__()
        self.backbone, features = backbone(vit)
        self.projector = head((features, 32, 16), bias=True)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(PROTOTYPES, 16)))
        self.queue = F.normalize(torch.randn(FULL, QUEUE, 16), dim=2) if queue else None
        self.step = 0

    def forward(self, views, index, drawn):
        features = [F.normalize(self.project(view), dim=1) for view in views]
        scores = [z @ self.prototypes.T for z in features]
        total = 0.0
        for a in range(FULL):
            others = [v for v in range(len(views)) if v != a]
            target = self.assign(scores[a].detach(), a)
            for v in others:
                log_p = F.log_softmax(scores[v] / TEMPERATURE, dim=1)
                total = total - (target * log_p).sum(1).mean() / len(others) / FULL
        if self.queue is not None:
            new = torch.stack([z.detach() for z in features[:FULL]])
            self.queue = torch.cat([self.queue, new], 1)[:, -QUEUE:]
        return total

    @torch.no_grad()
    def assign(self, scores, view):
        batch = len(scores)
        if self.queue is not None and self.step >= QUEUE_FROM:
            scores = torch.cat([self.queue[view] @ self.prototypes.T, scores])
        return balanced(scores)[-batch:]

    def before_step(self, number):
        """Frozen prototypes have no gradient at all: neither decay nor momentum moves them."""
        if number < FROZEN:
            self.prototypes.grad = None

    def after_step(self, number):
        self.step = number + 1
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
