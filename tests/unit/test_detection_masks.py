"""Outlines of objects and their bits."""

import numpy as np
import pytest

from moco_jax.detection import masks
from moco_jax.errors import InputError
from tests import encoded


def blob(seed, height=37, width=53):
    return encoded.smooth(height, width, 1, seed)[..., 0] > 140


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_in_letters_are_read_as_the_library_writes_them(seed):
    """Blobs have few and long runs, noise has many of one or two."""
    rng = np.random.default_rng(seed)
    for bits in (blob(seed, 300, 200), rng.random((41, 29)) < 0.5, np.ones((5, 4), bool)):
        letters = masks.encode(bits)["counts"].decode()
        counts = masks.unpack(letters)
        read = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        np.testing.assert_array_equal(read.reshape(bits.shape[::-1]).T, bits)
        shape = masks.read_shape({"size": list(bits.shape), "counts": letters}, *bits.shape)
        np.testing.assert_array_equal(masks.whole(shape, *bits.shape), bits)
        assert masks.encoded(shape, *bits.shape)["counts"].decode() == letters


@pytest.mark.parametrize("letters", ["~", "é", "P", "1P", "o" * 99, "\x00"])
def test_letters_that_are_none_are_refused(letters):
    with pytest.raises(InputError, match="run lengths"):
        masks.unpack(letters)


def test_a_negative_run_is_refused():
    letters = "O"  # -1
    assert masks.unpack(letters) == [-1]
    with pytest.raises(InputError, match="do not add up to 1 x 1"):
        masks.read_shape({"size": [1, 1], "counts": letters + "2"}, 1, 1)


def covered(bits, box, side):
    """Where a box's parts are covered by half or more, by 20 x 20 points in each."""
    points = (np.arange(side * 20) + 0.5) / (side * 20)
    x, y = (box[i] + points * (box[2 + i] - box[i]) for i in (0, 1))
    dense = bits[y.astype(int)][:, x.astype(int)]
    return dense.reshape(side, 20, side, 20).mean((1, 3))


@pytest.mark.parametrize("box", [(0, 0, 53, 37), (5.3, 7.9, 40.2, 30.6), (10, 10, 11, 11)])
def test_run_lengths_in_a_box_are_those_of_half_a_bit_or_more(box):
    bits, box = blob(0), np.array(box, np.float32)
    shape = masks.read_shape(masks.encode(bits) | {"counts": masks.encode(bits)["counts"].decode()},
                             *bits.shape)  # fmt: skip
    found, share = masks.in_box(shape, box, 28), covered(bits, box, 28)
    sure = np.abs(share - 0.5) > 0.05
    np.testing.assert_array_equal(found[sure], share[sure] > 0.5)
    assert sure.mean() > 0.9


def test_polygons_in_a_box():
    """A triangle, and a part that lies outside of the box."""
    given = [[10, 10, 50, 10, 10, 30], [0, 0, 9, 0, 9, 9]]
    shape = masks.read_shape(given, 40, 60)
    bits = masks.in_box(shape, np.array([10, 10, 50, 30], np.float32))
    assert bits.shape == (masks.BOX_SIDE, masks.BOX_SIDE)
    across, down = np.meshgrid(*[(np.arange(112) + 0.5) / 112] * 2)
    sure = np.abs(across + down - 1) > 0.02
    np.testing.assert_array_equal(bits[sure], (across + down < 1)[sure])
    assert masks.in_box(shape, np.array([20, 12, 25, 14], np.float32)).all()
    # Of a speck of it: not drawn as large as a town.
    assert masks.in_box(shape, np.array([20, 12, 20.0001, 12.0001], np.float32)).all()
    assert not masks.in_box(shape, np.array([49, 29, 49.0001, 29.0001], np.float32)).any()


def test_objects_without_an_outline_have_no_bits():
    shape = masks.read_shape([[0, 0, 9, 0, 9, 9, 0, 9]], 40, 60)
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    bits = masks.all_in_boxes((None, shape), boxes)
    assert bits.mean((1, 2)).tolist() == [0, 1]
    assert masks.all_in_boxes((), boxes).shape == (2, 112, 112)
