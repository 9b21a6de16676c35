"""Mixup, CutMix and soft targets against timm's, as DeiT uses them, for given draws.

1e-6 is some roundings of float32. A box is whole pixels: it and its share agree exactly.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.data import mixup as timm_mixup
from timm.loss import SoftTargetCrossEntropy

from moco_jax.ops.mix import Mix, cutmix_box, mix_images, mix_targets

pytestmark = pytest.mark.parity

B, H, W, CLASSES = 8, 13, 18, 5
LABELS = np.array([0, 4, 1, 1, 2, 3, 4, 0], np.int32)


def images():
    return np.random.default_rng(0).normal(size=(B, H, W, 3)).astype(np.float32)


def timms(share, cuts, centre=(0, 0), smoothing=0.1):
    mixer = timm_mixup.Mixup(0.8, 1.0, label_smoothing=smoothing, num_classes=CLASSES)
    x = torch.from_numpy(np.moveaxis(images(), -1, 1).copy())
    with (
        mock.patch.object(mixer, "_params_per_batch", return_value=(share, cuts)),
        mock.patch.object(timm_mixup.np.random, "randint", mock.Mock(side_effect=centre)),
    ):
        x, targets = mixer(x, torch.from_numpy(LABELS))
    return np.moveaxis(x.numpy(), 1, -1), targets.numpy()


def smoothed(smoothing):
    return optax.smooth_labels(jax.nn.one_hot(LABELS, CLASSES, dtype=jnp.float32), smoothing)


@jax.jit
def ours(mix):
    return mix_images(images(), mix), mix_targets(smoothed(0.1), mix)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99, 1.0])
def test_mixup(share):
    for got, want in zip(ours(Mix(jnp.float32(share), jnp.zeros((4,)))), timms(share, False)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.55, 0.97, 0.999, 1.0])
@pytest.mark.parametrize("centre", [(0, 0), (6, 9), (12, 17), (1, 16), (11, 0)])
def test_cutmix(share, centre):
    """The middle of a pixel stands for all that floor to it."""
    shares = (np.float32(centre) + 0.5) / np.float32([H, W])
    mix = jax.jit(cutmix_box, static_argnums=(2, 3))(jnp.float32(share), shares, H, W)
    got_images, got_targets = ours(mix)
    want_images, want_targets = timms(share, True, centre)
    np.testing.assert_array_equal(got_images, want_images)
    np.testing.assert_allclose(got_targets, want_targets, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing(smoothing):
    targets = timm_mixup.mixup_target(torch.from_numpy(LABELS), CLASSES, 1.0, smoothing)
    np.testing.assert_allclose(smoothed(smoothing), targets, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_cross_entropy_of_soft_targets(scale):
    """Relative 1e-5, and of the gradient's largest value: see test_losses."""
    logits = (scale * np.random.default_rng(0).normal(size=(B, CLASSES))).astype(np.float32)
    targets = timms(0.3, False)[1]
    theirs = torch.from_numpy(logits).double().requires_grad_()
    want = SoftTargetCrossEntropy()(theirs, torch.from_numpy(targets).double())
    want.backward()

    def loss(logits):
        return optax.losses.softmax_cross_entropy(logits, targets).mean()

    got, grad = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(got, want.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, theirs.grad, rtol=0, atol=1e-5 * theirs.grad.abs().max())
