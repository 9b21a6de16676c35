"""torchvision's Faster R-CNN at the size of configs/detection.py:bccd_demo: the peer.

Backbone, pyramid and head of the same channels; BatchNorm in training mode, as ours; the same
scales, mirror, batches, optimizer and schedule. Anchors, samples, losses and what follows are
torchvision's own. Images lie decoded in memory.
"""

import numpy as np
import torch
from torch import nn

from moco_jax.config import ConfigDict
from moco_jax.detection import anchors, voc_ap
from moco_jax.detection.annotated import Annotated, open_annotated
from moco_jax.detection.detections import Detections
from tests.parity import torch_moco

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator


def network(c: ConfigDict, classes: int) -> FasterRCNN:
    """The detector, from random values."""
    d = c.detection
    resnet = torch_moco.SmallResNet(round(64 * c.model.resnet.width), 1).apply(_initial)
    resnet.relu, resnet.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    stages = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    body = nn.Sequential()
    for name in ("conv1", "bn1", "relu", "maxpool", *stages):
        body.add_module(name, getattr(resnet, name))
    widths = [round(64 * c.model.resnet.width) * 2**i for i in range(4)]
    backbone = BackboneWithFPN(body, stages, widths, d.channels, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(
        backbone,
        min_size=tuple(d.sides),
        max_size=d.longest,
        image_mean=list(c.data.mean) or None,
        image_std=list(c.data.std) or None,
        rpn_anchor_generator=AnchorGenerator(anchors.FPN_SIZES, (anchors.RATIOS,) * 5),
        rpn_pre_nms_top_n_train=d.proposals[0],
        rpn_post_nms_top_n_train=d.proposals[1],
        rpn_pre_nms_top_n_test=d.test_proposals[0],
        rpn_post_nms_top_n_test=d.test_proposals[1],
        box_batch_size_per_image=d.samples,
        box_head=TwoMLPHead(d.channels * 7 * 7, d.features),
        box_predictor=FastRCNNPredictor(d.features, classes + 1),
    )


def _initial(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _example(
    pixels: np.ndarray, image: Annotated, mirrored: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    boxes = image.boxes.copy()
    if mirrored:
        pixels, boxes[:, [0, 2]] = pixels[:, ::-1], image.width - boxes[:, [2, 0]]
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    labels = torch.from_numpy(image.classes.astype(np.int64)) + 1  # 0 is the background
    return tensor, {"boxes": torch.from_numpy(boxes), "labels": labels}


def train(c: ConfigDict, net: FasterRCNN, images: tuple[Annotated, ...]) -> None:
    """SGD with linear warm-up and cosine, as ours; BatchNorm's parameters do not decay."""
    batch, random = c.data.batch_size, np.random.default_rng(c.seed)
    pixels = [image.pixels(c.data.max_pixels) for image in images]
    norms = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    kept = {id(p) for p in norms}
    others = [p for p in net.parameters() if id(p) not in kept]
    groups = [{"params": others}, {"params": norms, "weight_decay": 0.0}]
    peak = c.optim.base_lr * batch / 256
    optimizer = torch.optim.SGD(groups, peak, c.optim.momentum, weight_decay=c.optim.weight_decay)
    steps = int(c.epochs * len(images) / batch)
    warm = int(c.optim.warmup_epochs * len(images) / batch)
    order = np.concatenate([random.permutation(len(images)) for _ in range(int(c.epochs) + 1)])
    net.train()
    for step in range(steps):
        rate = peak * step / warm if step < warm else torch_moco.cosine_rate(
            peak, step - warm, steps - warm
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = order[step * batch : (step + 1) * batch]
        flips = random.random(batch) < 0.5
        examples = [_example(pixels[i], images[i], flip) for i, flip in zip(chosen, flips)]
        losses = net(*map(list, zip(*examples)))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"torchvision, step {step}/{steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def detections(c: ConfigDict, net: FasterRCNN, images: tuple[Annotated, ...]) -> list[Detections]:
    """What is found on each test image."""
    net.eval()
    net.transform.min_size = (c.detection.test_side,)
    found = []
    for image in images:
        tensor, _ = _example(image.pixels(c.data.max_pixels), image, False)
        (one,) = net([tensor])
        boxes, scores, labels = (one[k].numpy() for k in ("boxes", "scores", "labels"))
        found.append(Detections(boxes, scores, labels - 1))
    return found


def measure(c: ConfigDict) -> dict[str, float]:
    """Trains and tests; VOC's average precisions in [0, 1]."""
    torch.manual_seed(c.seed)
    source = open_annotated(c.data.source)
    images = source.train.for_training().images
    net = network(c, len(source.train.class_names))
    train(c, net, images)
    result = voc_ap.evaluate(source.test, detections(c, net, source.test.images))
    return {"AP": result.ap, "AP50": result.ap50, "AP75": result.ap75}
