"""Crop and resize against torchvision and PIL, and the law of the sampled boxes.

Resizing: 1e-5, float32 sums of up to a hundred terms in another order. Sampled boxes: two-sample
tests against torchvision's draws, all seeds fixed, at a significance of 1e-3 each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.transforms import RandomResizedCrop, functional

from moco_jax.data.augment import eval_view
from moco_jax.data.device_crop import crop_resize, sample_crop_box

pytestmark = pytest.mark.parity

RATIO = (3 / 4, 4 / 3)
DRAWS = 4000
resize = jax.jit(crop_resize, static_argnums=2)


def random_image(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


def to_torch(image):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))


@pytest.mark.parametrize("size", [1, 8, 24, 32])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 40, 56),  # all of it
        (3, 7, 30, 21),
        (10, 20, 24, 24),
        (0, 0, 9, 50),
        (33, 40, 7, 16),  # the far corner
        (5, 5, 2, 3),
        (39, 55, 1, 1),
        (0, 12, 1, 40),
        (0, 12, 40, 1),
    ],
)
def test_crop_resize_is_torchvisions(box, size):
    image = random_image(40, 56)
    ours = resize(image, jnp.array(box, jnp.int32), size)
    theirs = functional.resized_crop(to_torch(image), *box, [size, size], antialias=True)
    np.testing.assert_allclose(np.moveaxis(ours, -1, 0), theirs.numpy(), atol=1e-5)


def test_crop_resize_of_a_large_image_is_pils():
    image = random_image(500, 375, channels=1)
    top, left, height, width = box = (31, 8, 400, 333)
    cut = Image.fromarray(image[top : top + height, left : left + width, 0])
    theirs = np.asarray(cut.resize((64, 64), Image.Resampling.BILINEAR))
    ours = resize(image, jnp.array(box, jnp.float32), 64)
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-5)


def test_evaluation_is_resize_then_central_crop():
    """Short side to 256, central 224; the outermost pixels may lean on what the box leaves out."""
    pixels = np.random.default_rng(1).integers(0, 256, (1, 320, 480, 3), np.uint8)
    ours = eval_view({"image": pixels}, 224, 0.875, (0, 0, 0), (1, 1, 1))
    image = to_torch(pixels[0].astype(np.float32) / 255)
    theirs = functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])
    inside = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(
        np.moveaxis(ours[0], -1, 0)[inside], theirs.numpy()[inside], atol=1e-5
    )


def draw_boxes(height, width, area, ratio=RATIO):
    """Boxes (DRAWS, 4) of ours and of torchvision."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    ours = jax.vmap(lambda key: sample_crop_box(key, height, width, area, ratio))(keys)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = [RandomResizedCrop.get_params(image, area, ratio) for _ in range(DRAWS)]
    return np.asarray(ours), np.array(theirs)


@pytest.mark.parametrize(
    ("height", "width", "area"),
    [(480, 640, (0.2, 1.0)), (500, 375, (0.08, 1.0)), (32, 32, (0.2, 1.0)), (60, 200, (0.2, 1.0))],
)
def test_boxes_have_torchvisions_law(height, width, area):
    def summaries(boxes):
        top, left, box_height, box_width = boxes.T.astype(np.float64)
        area, log_ratio = box_height * box_width, np.log(box_width / box_height)
        return top, left, box_height, box_width, area, log_ratio

    for ours, theirs in zip(*map(summaries, draw_boxes(height, width, area))):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_area_is_uniform_and_ratio_log_uniform():
    """In an image where every box fits, against the law itself."""
    boxes, _ = draw_boxes(2000, 2000, (0.2, 0.5))
    height, width = boxes[:, 2].astype(np.float64), boxes[:, 3].astype(np.float64)
    area = height * width / 2000**2
    log_ratio = np.log(width / height)
    reach = np.log(4 / 3)
    assert stats.kstest(area, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(log_ratio, stats.uniform(-reach, 2 * reach).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(area, log_ratio).statistic) < 0.06  # 3.8 deviations


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (3, 400), (51, 77)])
def test_without_a_fit_the_central_crop_is_torchvisions(height, width):
    """No box of all the area and a ratio other than the image's fits; nor in a third of them."""
    ratio = (1.0, 1.2) if (height, width) == (51, 77) else RATIO
    ours, theirs = draw_boxes(height, width, (1.0, 1.0), ratio)
    np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert len(np.unique(ours, axis=0)) == 1
