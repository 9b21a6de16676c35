"""Small networks in PyTorch, and their weights as ours.

Every method has a `backbone` and a `projector`, some a `predictor`; each is a module of that name.
Of a method, `forward(views, index, drawn)` gives the loss of a batch of views (B, 3, S, S), of
images at `index`, where `drawn` is what our step draws at random; `before_step(number)` comes
between the gradient and the optimizer, `after_step(number)` behind it.
"""

import itertools
from types import SimpleNamespace

import torch
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.models.vision_transformer import VisionTransformer

from tests.parity.torch_moco import SmallResNet, set_groups, sincos
from tests.parity.torch_weights import convert, randomize

WIDTH, SIZE = 32, 64  # features of the ViT; pixels, of which the ResNet leaves 2 x 2
RESNET_WIDTH = 8


class Vit(VisionTransformer):
    """With the fixed position embedding of the image's own grid, where timm's would be resized."""

    def _pos_embed(self, x):
        grid = SimpleNamespace(grid_size=x.shape[1:3])
        position = sincos(SimpleNamespace(patch_embed=grid, pos_embed=self.pos_embed))
        token = self.cls_token.expand(len(x), -1, -1)
        return torch.cat([token, x.flatten(1, 2)], 1) + position


def backbone(vit, groups=1):
    """A ResNet-18 of an eighth of its width, or a ViT of two blocks; and how many features."""
    if not vit:
        model = SmallResNet(RESNET_WIDTH, 1)
        features, model.fc = model.fc.in_features, nn.Identity()
        return randomize(set_groups(model, groups), 0), features
    model = Vit(
        img_size=SIZE, patch_size=16, embed_dim=WIDTH, depth=2, num_heads=4, num_classes=0,
        dynamic_img_size=True,
    )  # fmt: skip
    # Far from its initial values, so that features differ between images: see torch_moco.
    for name, p in model.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=2 / p.shape[-1] ** 0.5 if "weight" in name else 0.1)
    model.pos_embed.data = sincos(model)
    for p in (model.pos_embed, *model.patch_embed.parameters()):
        p.requires_grad = False
    return model, WIDTH


def head(sizes, bn=True, bias=False, last_bn=False):
    """Linear layers between `sizes`, with BatchNorm (or not) and ReLU between them."""
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), 2):
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        last = number == len(sizes)
        if last_bn if last else bn:
            layers.append(nn.BatchNorm1d(outputs, affine=not last))
        layers += [] if last else [nn.ReLU()]
    return randomize(nn.Sequential(*layers), 1)


class Method(nn.Module):
    """What the methods share."""

    def project(self, x):
        return self.projector(self.backbone(x))

    def before_step(self, number):
        pass

    def after_step(self, number):
        pass


def _numbered(sequential):
    """The state of a head with our names: the i-th linear layer and what follows it."""
    tensors, number = {}, 0
    for module in sequential:
        number += isinstance(module, nn.Linear)
        kind = "fc" if isinstance(module, nn.Linear) else "bn"
        for name, tensor in module.state_dict().items():
            tensors[f"{kind}{number}.{name}"] = tensor
    return tensors


def ours(**networks):
    """(parameters, statistics) of networks as our trees, each a dict by network."""
    params, stats = {}, {}
    for name, net in networks.items():
        state = net.state_dict() if name == "backbone" else _numbered(net)
        state = {key: tensor.float() for key, tensor in state.items() if key != "pos_embed"}
        variables = convert(state)
        params[name], stats[name] = variables["params"], variables["batch_stats"]
    return params, stats
