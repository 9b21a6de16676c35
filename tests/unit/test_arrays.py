"""Arrays as people have them: read right, or refused with what makes them right."""

import io
import zipfile

import numpy as np
import pytest

from moco_jax.data import labels as class_labels
from moco_jax.data.source import ArraySource, open_source
from moco_jax.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
NUMBERS = np.arange(8) % 3


def save(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return f"npz:{tmp_path}/x.npz"


@pytest.mark.parametrize(
    ("shape", "turned"),
    [
        ((8, 3, 32, 32), (8, 32, 32, 3)),
        ((8, 1, 28, 28), (8, 28, 28, 1)),
        ((8, 3, 40, 60), (8, 40, 60, 3)),
        ((8, 13, 64, 64), (8, 64, 64, 13)),
        ((8, 3, 8, 8), (8, 8, 8, 3)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "test_"])
def test_channels_first_is_refused_with_the_transpose(tmp_path, shape, turned, prefix):
    arrays = {"images": PIXELS, f"{prefix}images": np.zeros(shape, np.uint8)}
    with pytest.raises(InputError) as error:
        open_source(save(tmp_path, **arrays))
    text = f"{prefix}images have shape {shape}, which looks like (N, C, H, W); expected (N, H, W, "
    assert f"{text}C), {turned}: images.transpose(0, 2, 3, 1)" in str(error.value)
    assert np.zeros(shape).transpose(0, 2, 3, 1).shape == turned


@pytest.mark.parametrize(
    "shape", [(4, 32, 32, 3), (4, 28, 28), (4, 28, 28, 1), (4, 11, 11, 200), (4, 64, 64, 13),
              (4, 5, 6, 5), (4, 2, 9, 4), (4, 3, 3, 3)],
)  # fmt: skip
def test_channels_last_of_any_number_are_read(tmp_path, shape):
    source = open_source(save(tmp_path, images=np.zeros(shape, np.uint8))).train
    assert source.images.shape == (*shape, 1)[:4]


@pytest.mark.parametrize(
    ("images", "way_out"),
    [
        (PIXELS / np.float32(255), "(images / 1 * 255).round()"),
        (PIXELS.astype(np.float64), "(images / 255 * 255).round()"),
        (PIXELS.astype(np.uint16) * 16, "(images / 4095 * 255).round()"),
        (np.full((2, 3, 4), 65535, np.uint16), "(images / 65535 * 255).round()"),
        (PIXELS.astype(np.int64), "expected uint8 (0 to 255)"),
    ],
)
def test_pixels_of_another_type_are_refused_with_the_scaling(tmp_path, images, way_out):
    with pytest.raises(InputError) as error:
        open_source(save(tmp_path, images=images))
    assert way_out in str(error.value)


@pytest.mark.parametrize(
    ("keys", "renamed"),
    [
        (["x_train", "y_train", "x_test", "y_test"], ["images", "labels", "test_images"]),
        (["train_images", "train_labels", "test_images"], ["images", "labels"]),
    ],
)
def test_keys_of_other_programs_are_translated_in_the_message(tmp_path, keys, renamed):
    arrays = {key: NUMBERS if key[0] == "y" or "labels" in key else PIXELS for key in keys}
    with pytest.raises(InputError) as error:
        open_source(save(tmp_path, **arrays))
    for key, new in zip(keys, renamed):
        assert f"{key!r} to {new!r}" in str(error.value)


@pytest.mark.parametrize(
    ("labels", "numbers", "names", "unlabelled"),
    [
        (NUMBERS, NUMBERS, (), 0),
        (NUMBERS[:, None], NUMBERS, (), 0),
        (NUMBERS + 1, NUMBERS + 1, (), 0),
        (NUMBERS.astype(np.uint8), NUMBERS, (), 0),
        (np.array(["dog", "cat", "owl"])[NUMBERS], [1, 0, 2] * 3, ("cat", "dog", "owl"), 0),
        (np.array(["dog", "", "owl"])[NUMBERS], [0, -1, 1] * 3, ("dog", "owl"), 3),
        (np.where(NUMBERS == 2, -1, NUMBERS), [0, 1, -1] * 3, (), 2),
    ],
)
def test_labels_as_people_write_them(tmp_path, labels, numbers, names, unlabelled):
    source = open_source(save(tmp_path, images=PIXELS, labels=labels)).train
    np.testing.assert_array_equal(source.labels, numbers[:8])
    assert (source.labels.dtype, source.class_names) == (np.int32, names)
    assert source.understood.unlabelled == unlabelled
    assert sum(source.understood.classes.values()) == 8 - unlabelled


def test_labels_of_minus_one_alone_are_none(tmp_path):
    source = open_source(save(tmp_path, images=PIXELS, labels=np.full(8, -1))).train
    assert (source.labels, source.labelled) == (None, False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0] * 7 + [10**9]), "go up to 1000000000; expected numbers of classes"),
        (np.array([0] * 7 + [2**31]), "go up to 2147483648; expected numbers"),
        (np.array([0] * 7 + [2**64 - 1], np.uint64), "go up to 18446744073709551615; expected"),
        (np.array([0] * 7 + [class_labels.MOST_CLASSES]), "go up to 100000; expected numbers"),
        (np.array([0] * 7 + [-2]), "go down to -2; expected numbers from 0, or -1"),
        (np.eye(3)[NUMBERS], r"shape \(8, 3\); expected one for each.*labels.argmax\(1\)"),
        (np.zeros((8, 2), int), r"shape \(8, 2\)"),
        (np.full(8, "2020-01-01", "M8[D]"), "expected integers or strings"),
        (np.full(8, True), "bool; expected integers"),
    ],
)
def test_labels_that_are_no_numbers_of_classes_are_refused(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        open_source(save(tmp_path, images=PIXELS, labels=labels))


def test_test_labels_have_the_numbers_of_training(tmp_path):
    words = np.array(["cat", "dog", "owl"])
    arrays = {"images": PIXELS, "labels": words[NUMBERS], "test_images": PIXELS[:2]}
    test = open_source(save(tmp_path, **arrays, test_labels=words[[2, 1]])).test
    assert (test.labels.tolist(), test.class_names) == ([2, 1], ("cat", "dog", "owl"))
    with pytest.raises(InputError, match=r"test_labels hold 'dogs'.*3 classes.*nearest.*'dog'"):
        open_source(save(tmp_path, **arrays, test_labels=np.array(["dogs", "cat"])))


def test_names_go_with_the_images(tmp_path):
    names = np.array([f"{i}.jpg" for i in range(8)])
    train = open_source(save(tmp_path, images=PIXELS, names=names)).train
    assert [train.item_name(i) for i in (0, 7)] == ["0.jpg", "7.jpg"]
    with pytest.raises(InputError, match=r"names have shape \(7,\); expected \(8,\)"):
        open_source(save(tmp_path, images=PIXELS, names=names[:7]))


def header(shape):
    """The header of an array, as numpy writes it, without the array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def promising(path, data):
    """A zip file of one array that holds less than it says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: promising(path, header((10**8, 300, 80))),
         r"header of 'images' promises 2,400,000,000,000 bytes, .* and there are 0"),
        (lambda path: promising(path, header((2**62, 2**62))), "is damaged"),
        (lambda path: promising(path, header((4, 4, 4)) + bytes(63)), "64 bytes.*there are 63"),
        (lambda path: promising(path, b"\x93NUMPY\x01\0\x10\0{'descr': evil()}"), "is damaged"),
        (lambda path: promising(path, b"not an array"), "is damaged"),
        (lambda path: promising(path, b""), "is damaged"),
        *((lambda path, at=at: flip(path, at), "is damaged") for at in (0.2, 0.5, 0.8)),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is not a .npz"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(tmp_path, damage, message):
    np.savez_compressed(tmp_path / "x.npz", images=PIXELS)
    damage(tmp_path / "x.npz")
    with pytest.raises(InputError, match=message):
        open_source(f"npz:{tmp_path}/x.npz")


def flip(path, share):
    """One bit of the content."""
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 16
    path.write_bytes(data)


def test_a_bomb_is_not_unpacked(tmp_path):
    """Gigabytes of zeros, of which the header names a few bytes."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header((4, 4, 4)) + bytes(50_000_000))
    with pytest.raises(InputError, match=r"promises 64 bytes.*there are 50,000,000"):
        open_source(f"npz:{tmp_path}/x.npz")


# What is expected


GRAY = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)


def test_gray_arrays_get_a_channel(tmp_path):
    train, test = open_source(save(tmp_path, images=GRAY))
    assert isinstance(train, ArraySource)
    assert (test, train.labels, train.labelled) == (None, None, False)
    np.testing.assert_array_equal(train.images, GRAY[..., None])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_arrays_of_any_channel_count_with_a_test_part(tmp_path, channels):
    images = np.repeat(GRAY[..., None], channels, -1)
    content = {"images": images, "labels": np.array([0, 1, 1, 7], np.uint8), "note": "mine"}
    train, test = open_source(
        save(tmp_path, **content, test_images=images[:2], test_labels=np.array([7, 0]))
    )
    assert (train.channels, train.image_shape, len(test)) == (channels, (5, 6), 2)
    assert train.labels.tolist() == [0, 1, 1, 7]
    assert train.labels.dtype == test.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": GRAY}, "no array 'images', only image; rename 'image'"),
        ({"images": GRAY, "label": np.zeros(4, int)}, "holds 'label'; did you mean 'labels'"),
        ({"images": GRAY.astype(np.float32)}, "images are float32; expected uint8"),
        ({"images": GRAY[0]}, r"shape \(5, 6\); expected \(N, H, W\)"),
        ({"images": GRAY[:0]}, r"shape \(0, 5, 6\); expected .* none of them 0"),
        ({"images": GRAY, "labels": np.zeros(3, int)}, r"shape \(3,\); expected \(4,\)"),
        ({"images": GRAY, "labels": np.zeros(4)}, "labels are float64; expected integers"),
        ({"images": GRAY, "labels": np.array([0, -2, 1, 1])}, "down to -2; expected .* from 0"),
        ({"images": GRAY, "test_labels": np.zeros(4, int)}, "test_labels without test_images"),
        ({"images": GRAY, "test_images": np.zeros((1, 5, 6, 3), np.uint8)}, "1 channels, test 3"),
        (
            {"images": GRAY, "labels": np.arange(4), "class_names": ["a", "b"]},
            "up to 3, but there are 2 class names",
        ),
        ({"images": GRAY, "labels": np.array([0, 1, None, 2])}, "labels is no plain array"),
    ],
)
def test_arrays_that_are_not_as_expected_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        open_source(save(tmp_path, **content))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "x.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"not a \.npz file"):
        open_source(f"npz:{tmp_path}/x.npz")
    with pytest.raises(ValueError, match=r"not a \.npz file"):
        open_source(f"npz:{tmp_path}")
