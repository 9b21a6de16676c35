"""The host's crops against torchvision's, in distribution and in pixels.

torchvision samples with its own generator, so parameters are compared as distributions: two-sample
Kolmogorov-Smirnov tests at p > 0.001 on fixed seeds.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.images import natural
from moco_jax.data import host_crop
from moco_jax.data.host_crop import Region

pytestmark = pytest.mark.parity

COUNT = 4000
RATIO = (3 / 4, 4 / 3)


def torchvision_boxes(height, width, area, ratio, count=COUNT):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = transforms.RandomResizedCrop.get_params
    return np.array([draw(image, list(area), list(ratio)) for _ in range(count)])


def our_boxes(height, width, area, ratio, count=COUNT):
    region = Region(area, ratio)
    draws = (host_crop.generator(0, 0, i) for i in range(count))
    return np.array([host_crop.sample_box(rng, height, width, region) for rng in draws])


@pytest.mark.parametrize("area", [(0.2, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (200, 900), (64, 64)])
def test_boxes_are_distributed_as_torchvisions(shape, area):
    ours, theirs = our_boxes(*shape, area, RATIO), torchvision_boxes(*shape, area, RATIO)
    # A share that always falls back has the same box always: compare how often first.
    fallback = host_crop.sample_box(np.random.default_rng(0), *shape, Region((9.0, 9.0), RATIO))
    shares = [np.all(boxes == fallback, axis=1).mean() for boxes in (ours, theirs)]
    assert abs(shares[0] - shares[1]) < 4 * np.sqrt(0.5 * max(shares) / COUNT) + 0.002

    def statistics(boxes):
        top, left, height, width = boxes.T
        free_y, free_x = shape[0] - height, shape[1] - width
        where = np.stack([(top + 0.5) / (free_y + 1), (left + 0.5) / (free_x + 1)])
        return [height * width, np.log(width / height), *where]

    for a, b in zip(statistics(ours), statistics(theirs)):
        assert stats.ks_2samp(a, b).pvalue > 0.001


@pytest.mark.parametrize("shape", [(30, 300), (300, 30), (40, 41)])
def test_the_fallback_box_is_torchvisions(shape):
    # An area above the image's never fits.
    np.testing.assert_array_equal(
        our_boxes(*shape, (1.5, 2.0), RATIO, 1), torchvision_boxes(*shape, (1.5, 2.0), RATIO, 1)
    )


def torchvision_crop(image, box, size):
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    out = functional.resized_crop(pixels, *box, [size, size], antialias=True)
    return out.permute(1, 2, 0).numpy()


def resized(image, size):
    out = np.empty((size, size, 3), np.uint8)
    host_crop.resize(image, out)
    return out.astype(int)


@pytest.mark.parametrize(
    ("area", "mean_limit"),
    [
        # Crops of 500 x 375 pixels to 224: from a little enlarging to a shrinking by 1.9.
        ((0.2, 1.0), 1.1),
        ((0.02, 0.15), 0.2),  # only enlarging: the same bilinear weights, rounded otherwise
    ],
)
def test_crops_are_close_to_torchvisions_antialiased_ones(area, mean_limit):
    errors, naive = [], []
    for seed in range(12):
        image = natural(375, 500, seed)
        box = host_crop.sample_box(host_crop.generator(0, 0, seed), 375, 500, Region(area, RATIO))
        expected = torchvision_crop(image, box, 224).astype(int)
        cut = image[box.top : box.top + box.height, box.left : box.left + box.width]
        errors.append(np.abs(resized(cut, 224) - expected))
        ys = (np.arange(224) * box.height) // 224
        xs = (np.arange(224) * box.width) // 224
        naive.append(np.abs(cut[ys][:, xs] - expected).mean())
    means = [error.mean() for error in errors]
    assert np.mean(means) < mean_limit
    assert max(means) < 2  # crops that shrink by about 1.1 are the worst
    assert max(error.max() for error in errors) <= 25
    assert np.mean(means) < 0.4 * np.mean(naive)  # sampling without a filter


@pytest.mark.parametrize("shrink", [1.3, 1.5, 1.9, 2.5, 4.0, 6.0])
def test_strong_shrinking_is_close_to_torchvisions(shrink):
    size = 96
    side = round(size * shrink)
    errors = []
    for seed in range(4):
        image = natural(side, side, seed)
        expected = torchvision_crop(image, (0, 0, side, side), size).astype(int)
        errors.append(np.abs(resized(image, size) - expected).mean())
    assert np.mean(errors) < 1.2


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (180, 200), (260, 1000)])
def test_the_evaluation_view_is_torchvisions(shape):
    image = natural(*shape, 0)
    pipeline = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = np.asarray(pipeline(Image.fromarray(image))).astype(int)
    # The same filter of PIL's, but of a box PIL may filter rows before columns, and it rounds to
    # uint8 in between: at most one level.
    error = np.abs(host_crop.center_crop(image, 224, 224 / 256) - expected)
    assert error.max() <= 1
    assert error.mean() < 0.3
