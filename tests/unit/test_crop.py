"""Crops on the host: sizes, bounds, repeatability."""

import numpy as np
import pytest
from PIL import Image

from moco_jax.data import host_crop
from moco_jax.data.host_crop import Region
from tests.encoded import encode, random_views, resized, smooth

REGION = Region((0.2, 1.0), (3 / 4, 4 / 3))


def test_random_numbers_depend_on_seed_epoch_and_index_alone():
    first = host_crop.generator(1, 2, 3).random(4)
    np.testing.assert_array_equal(first, host_crop.generator(1, 2, 3).random(4))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3), (1, 3, 2)):
        assert not np.isin(first, host_crop.generator(*other).random(1000)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5), (375, 500)])
def test_boxes_lie_inside_the_image(shape):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = host_crop.sample_box(rng, *shape, Region((0.05, 1), (0.5, 2)))
        assert top >= 0
        assert left >= 0
        assert 1 <= height <= shape[0] - top
        assert 1 <= width <= shape[1] - left


def test_boxes_reach_every_border():
    rng = np.random.default_rng(0)
    boxes = np.array([host_crop.sample_box(rng, 8, 9, REGION) for _ in range(2000)])
    assert boxes[:, :2].min(0).tolist() == [0, 0]
    assert (boxes[:, :2] + boxes[:, 2:]).max(0).tolist() == [8, 9]


@pytest.mark.parametrize(
    ("shape", "expected"), [((20, 100), (0, 36, 20, 27)), ((100, 20), (36, 0, 27, 20))]
)
def test_the_fallback_is_the_central_crop_with_the_ratio_clamped(shape, expected):
    rng = np.random.default_rng(0)
    box = host_crop.sample_box(rng, *shape, Region((1.0, 1.0), (3 / 4, 4 / 3)))
    assert box == expected


def test_two_views_differ_and_repeat():
    data = encode(Image.fromarray(smooth(90, 120)), "PNG")
    views = [random_views(data, host_crop.generator(0, 0, i), (REGION, REGION), 24) for i in (5, 5)]
    assert (views[0].shape, views[0].dtype) == ((2, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(*views)
    assert np.abs(views[0][0].astype(int) - views[0][1]).mean() > 5


def test_each_view_has_its_own_region():
    columns = np.arange(120, dtype=np.uint8)[:, None]
    image = np.broadcast_to(columns, (90, 120, 3)).copy()
    whole, part = (
        Region((1.0, 1.0), (4 / 3, 4 / 3)),
        Region((0.01, 0.01), (1.0, 1.0)),
    )
    data = encode(Image.fromarray(image), "PNG")
    views = random_views(data, host_crop.generator(0, 0, 0), (whole, part), 32)
    np.testing.assert_array_equal(views[0], resized(image, 32))
    assert int(views[1].max()) - views[1].min() <= 10  # of 10 columns


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (32, 32), (33, 500), (700, 900)])
def test_resizing_keeps_a_flat_image_flat(shape):
    image = np.full((*shape, 3), (10, 130, 255), np.uint8)
    np.testing.assert_array_equal(resized(image, 32), np.broadcast_to(image[0, 0], (32, 32, 3)))


def test_resizing_to_the_same_size_changes_nothing():
    image = smooth(32, 32)
    np.testing.assert_array_equal(resized(image, 32), image)


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resized(stripes, 96)
    assert small.astype(int).max() - small.min() < 80  # sampling alone would give 0 to 255


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (32, 32), (8, 90), (20, 21)])
def test_the_center_crop_is_the_middle_of_the_resized_image(shape):
    image = smooth(*shape)
    view = host_crop.center_crop(image, 28, 0.875)
    assert (view.shape, view.dtype) == ((28, 28, 3), np.uint8)
    short = min(shape)
    size = [round(32 * side / short) if side == short else int(32 * side / short) for side in shape]
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = (round((side - 28) / 2) for side in size)
    # Of a box PIL may filter rows before columns, and it rounds in between: at most one level.
    expected = whole[top : top + 28, left : left + 28].astype(int)
    np.testing.assert_allclose(view, expected, atol=1)
