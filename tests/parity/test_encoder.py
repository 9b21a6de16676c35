"""`moco_jax.load` of torchvision's file against torchvision with its own preprocessing.

On the same pixels, features within 1e-4 of their largest: both are float32, summed in other orders.
Pixels within 1 of 255: the crop is resized alone, so that PIL rounds differently here and there.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
import torchvision
from torchvision.transforms import v2

import moco_jax
from benchmarks.images import natural
from moco_jax.data.images import prepare
from tests.parity.torch_weights import randomize

pytestmark = pytest.mark.parity
SIZE = 64


def test_torchvision_s_features(tmp_path):
    model = randomize(torchvision.models.resnet18(), 0).eval()
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    sizes = ((90, 120), (200, 81), (64, 64))
    images = [Image.fromarray(natural(*size, seed)) for seed, size in enumerate(sizes)]
    transform = v2.Compose([
        v2.Resize(round(SIZE / 0.875)), v2.CenterCrop(SIZE), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    normalize = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model.fc = torch.nn.Identity()
    pixels = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        expected = model(normalize(pixels)).numpy()
    encoder = moco_jax.load(tmp_path / "resnet18.pth", image_size=SIZE)
    found = encoder.apply(encoder.params, pixels.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    for image, theirs in zip(images, pixels):
        ours = prepare(image, SIZE, 0.875, 3)
        np.testing.assert_allclose(ours, theirs.permute(1, 2, 0), atol=1.01 / 255)
    found = encoder(images)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for image, path in zip(images, paths):
        image.save(path)
    np.testing.assert_array_equal(encoder(paths), found)
