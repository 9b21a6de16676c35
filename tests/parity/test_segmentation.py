"""The segmenter, its loss and its score against PyTorch and scikit-learn, on copied weights.

1e-4 of the largest value, and 5e-4 for gradients: see test_resnet.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from sklearn import metrics

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models import resnet50

from moco_jax.detection import mean_iou
from moco_jax.detection.pixel_loss import IGNORED, pixel_loss
from moco_jax.detection.segmenter import Segmenter, upsampled
from tests.parity.torch_weights import (
    RENAMES,
    convert,
    gradients,
    largest_error,
    nchw,
    randomize,
    relative_error,
)

pytestmark = pytest.mark.parity

CLASSES, CHANNELS = 5, 16
NAMES = (
    (r"^backbone\.(layer\d)\.(\d)", r"backbone.\1_\2"),
    (r"^(conv\d)\.0", r"\1.conv"),
    (r"^(conv\d)\.1", r"\1.bn"),
    (r"^predictor", "predictor.conv"),
)


def convolved(channels):
    conv = torch.nn.Conv2d(channels, CHANNELS, 3, padding=6, dilation=6, bias=False)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(CHANNELS), torch.nn.ReLU())


class TorchSegmenter(torch.nn.Module):
    """torchvision's ResNet with all 3x3 of its last stage dilated (it leaves out the first)."""

    def __init__(self):
        super().__init__()
        self.backbone = resnet50(replace_stride_with_dilation=[False, False, True])
        first = self.backbone.layer4[0].conv2
        first.dilation, first.padding = (2, 2), (2, 2)
        self.backbone.fc = torch.nn.Identity()
        self.conv1, self.conv2 = convolved(2048), convolved(CHANNELS)
        self.predictor = torch.nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, x):
        b = self.backbone
        x = b.maxpool(b.relu(b.bn1(b.conv1(x))))
        x = b.layer4(b.layer3(b.layer2(b.layer1(x))))
        return self.predictor(self.conv2(self.conv1(x)))


def pair():
    torch.manual_seed(0)
    model = randomize(TorchSegmenter(), 0)
    for block in model.modules():
        if hasattr(block, "bn3"):  # see test_resnet.py
            block.bn3.weight.data *= 0.3
    net = Segmenter(CLASSES, channels=CHANNELS)
    return model, net, convert(model.state_dict(), (*NAMES, *RENAMES))


def upsampled_there(logits, height, width):
    return torch.nn.functional.interpolate(
        logits, (height, width), mode="bilinear", align_corners=True
    )


def images(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)


def labels_of(*shape):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.3] = IGNORED
    return labels


def test_logits_of_pixels():
    model, net, variables = pair()
    x = images(2, 65, 97)
    with torch.no_grad():
        want = upsampled_there(model.eval()(nchw(x)), 65, 97).numpy().transpose(0, 2, 3, 1)
    got = jax.jit(lambda v, x: upsampled(net.apply(v, x, train=False)))(variables, x)
    assert relative_error(got, want) < 1e-4


def test_training(monkeypatch):
    """Statistics, loss and gradient; with a smooth activation, see test_resnet.py."""
    monkeypatch.setattr(nn, "relu", jax.nn.softplus)
    model, net, variables = pair()
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, torch.nn.Softplus())
    x, labels = images(4, 49, 33), labels_of(4, 49, 33)

    def loss(params):
        inputs = {**variables, "params": params}
        logits, new = net.apply(inputs, x, train=True, mutable=["batch_stats"])
        return pixel_loss(upsampled(logits), labels), new["batch_stats"]

    logits = upsampled_there(model.train()(nchw(x)), 49, 33)
    want = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(labels).long(), ignore_index=IGNORED
    )
    want.backward()
    (got, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert relative_error(got, want.item()) < 1e-4
    after = convert(model.state_dict(), (*NAMES, *RENAMES))["batch_stats"]
    assert largest_error(stats, after) < 1e-4
    assert largest_error(grads, gradients(model, (*NAMES, *RENAMES))) < 5e-4


@pytest.mark.parametrize("cells", [(2, 2), (3, 5), (33, 2)])
def test_upsampling_and_its_gradient(cells):
    small = np.random.default_rng(0).normal(size=(2, *cells, 3)).astype(np.float32)
    height, width = (16 * (n - 1) + 1 for n in cells)
    there = nchw(small).requires_grad_()
    want = upsampled_there(there, height, width)
    weights = np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)
    (want * nchw(weights)).sum().backward()
    got, pull = jax.vjp(upsampled, jnp.asarray(small))
    assert relative_error(got, want.detach().numpy().transpose(0, 2, 3, 1)) < 1e-5
    (grad,) = pull(jnp.asarray(weights))
    assert relative_error(grad, there.grad.numpy().transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize("ignored", [0.0, 0.5])
def test_loss(ignored):
    rng = np.random.default_rng(2)
    logits = 5 * rng.normal(size=(3, 7, 6, CLASSES)).astype(np.float32)
    labels = np.where(
        rng.random((3, 7, 6)) < ignored, IGNORED, rng.integers(0, CLASSES, (3, 7, 6))
    ).astype(np.uint8)
    there = nchw(logits).requires_grad_()
    want = torch.nn.functional.cross_entropy(
        there, torch.from_numpy(labels).long(), ignore_index=IGNORED
    )
    want.backward()
    got, grad = jax.value_and_grad(pixel_loss)(jnp.asarray(logits), labels)
    assert relative_error(got, want.item()) < 1e-6
    assert relative_error(grad, there.grad.numpy().transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_mean_iou_is_that_of_scikit_learn(seed):
    """Its macro Jaccard score over the classes that are true or found; two of six never are."""
    rng = np.random.default_rng(seed)
    counts, truths, founds = np.zeros((6, 6), np.int64), [], []
    for _ in range(4):
        labels = labels_of(2, 17, 33) % 4
        labels[rng.random(labels.shape) < 0.2] = IGNORED
        logits = rng.normal(size=(2, 17, 33, 6)).astype(np.float32)
        logits[..., 4:] = -99
        counts += np.asarray(mean_iou.confusion(logits, labels))
        kept = labels != IGNORED
        truths.append(labels[kept])
        founds.append(logits.argmax(-1)[kept])
    truth, found = np.concatenate(truths), np.concatenate(founds)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(truth, found, labels=range(6)))
    got = mean_iou.scores(counts, "abcdef")
    want = metrics.jaccard_score(truth, found, average=None, labels=range(4))
    np.testing.assert_allclose(list(got.iou.values())[:4], want, rtol=1e-12)
    assert np.isnan([got.iou["e"], got.iou["f"]]).all()
    assert got.mean_iou == pytest.approx(want.mean(), rel=1e-12)
    assert got.accuracy == pytest.approx(metrics.accuracy_score(truth, found), rel=1e-12)
