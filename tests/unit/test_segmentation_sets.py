"""Label maps of VOC's and Cityscapes' layouts: which count, what is left out, what is refused."""

import numpy as np
import pytest
from PIL import Image

from moco_jax.detection import cityscapes, voc_pixels
from moco_jax.detection.label_maps import IGNORED
from moco_jax.detection.segmented import open_segmented
from moco_jax.errors import BadImage, InputError, MissingError
from tests import pixel_sets
from tests.annotations import picture


def names(part):
    return None if part is None else "".join(image.name[0] for image in part.images)


def numbers(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("lists", "train", "test", "said"),
    [
        ({}, "abcdef", None, "trains by all of it"),
        ({"train": "ab", "val": "ef"}, "ab", "ef", "trains by train, tests by val"),
        ({"train": "ab", "val": "ef", "trainval": "abef"}, "ab", "ef", "by train, tests by val"),
        ({"train": "ab", "val": "ef", "train_aug": "cabd"}, "cabd", "ef", "by train_aug, tests"),
        ({"train": "ab", "val": "ef", "trainaug": "abd"}, "abd", "ef", "by trainaug, tests"),
        ({"train": "ab", "val": "ef", "aug": "cd"}, "abcd", "ef", "by train and aug, tests by val"),
        ({"trainval": "ab", "val": "b"}, "ab", None, "trains by trainval"),
        (
            {"train_aug": [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in "abe"],
             "val": "ef"},
            "ab", "ef", "images to train on that are tested on as well: 1 (e)",
        ),
    ],
)  # fmt: skip
def test_lists_of_voc(lists, train, test, said, tmp_path, caplog):
    caplog.set_level("INFO")
    pixel_sets.voc(tmp_path, "abef", lists)
    pixel_sets.voc(tmp_path, "cd", labels="SegmentationClassAug")
    splits = open_segmented(f"voc:{tmp_path}")
    assert (names(splits.train), names(splits.test)) == (train, test)
    assert said in caplog.text
    image = splits.train.images[0]
    assert image.pixels(10**4).shape == (40, 60, 3)
    np.testing.assert_array_equal(image.labels(10**4), numbers(image.labels_path))
    assert len(splits.train.class_names) == 21
    assert splits.train.class_names[15] == "person"


def test_vocs_own_label_maps_count_before_those_of_sbd(tmp_path):
    pixel_sets.voc(tmp_path, "a")
    pixel_sets.label_map(tmp_path / "SegmentationClassAug" / "a.png", np.zeros(pixel_sets.SIDES))
    (image,) = open_segmented(f"voc:{tmp_path}").train.images
    assert image.labels(10**4).any()


@pytest.mark.parametrize("end", ["labelIds", "labelTrainIds"])
def test_cityscapes(end, tmp_path):
    pixel_sets.cityscapes(tmp_path, {"train": "ab", "val": "c"}, end)
    splits = open_segmented(f"cityscapes:{tmp_path}")
    assert (names(splits.train), names(splits.test)) == ("ab", "c")
    (image,) = splits.test.images
    own = dict.fromkeys(range(34), IGNORED)
    for i, number in enumerate([*range(7, 9), *range(11, 14), 17, *range(19, 29), *range(31, 34)]):
        own[number] = i
    own = own if end == "labelIds" else {i: i for i in range(19)}
    want = np.vectorize(lambda n: own.get(n, IGNORED))(numbers(image.labels_path))
    np.testing.assert_array_equal(image.labels(10**4), want)
    assert cityscapes.CLASSES[13] == "car"
    assert len(cityscapes.CLASSES) == 19


def test_label_ids_count_before_train_ids(tmp_path):
    pixel_sets.cityscapes(tmp_path, {"train": "a"}, "labelTrainIds")
    pixel_sets.cityscapes(tmp_path, {"train": "a"})
    (image,) = open_segmented(f"cityscapes:{tmp_path}").train.images
    assert image.labels_path.endswith("a_gtFine_labelIds.png")


def test_what_is_odd_is_left_out_and_said_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    pixel_sets.voc(tmp_path, "abcdefghi")
    labels = tmp_path / "SegmentationClass"
    (labels / "a.png").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    pixel_sets.label_map(labels / "c.png", np.zeros((60, 40)))
    pixel_sets.label_map(labels / "d.png", mode="RGB")
    pixel_sets.label_map(labels / "e.png", mode="1")
    (labels / "f.png").write_bytes(b"")
    (tmp_path / "JPEGImages" / "g.jpg").write_bytes(b"no image")
    picture(labels / "h.png")
    assert names(open_segmented(f"voc:{tmp_path}").train) == "i"
    for text in (
        "images without a label map: 1 (a)", "label maps without an image: 1 (b)",
        "label maps of another size: 1 (c)", "images that cannot be read: 1 (g)",
        "label maps that are no PNG of numbers (a palette, or 8 bits of gray): 4 (d)",
    ):  # fmt: skip
        assert text in caplog.text


def test_what_is_odd_in_cityscapes(tmp_path, caplog):
    caplog.set_level("INFO")
    pixel_sets.cityscapes(tmp_path, {"train": "abc"})
    picture(tmp_path / "leftImg8bit" / "train" / "a" / "other.png")
    (tmp_path / "gtFine" / "train" / "a" / "a_gtFine_labelIds.png").unlink()
    (tmp_path / "leftImg8bit" / "train" / "b" / "b_leftImg8bit.png").unlink()
    assert names(open_segmented(f"cityscapes:{tmp_path}").train) == "c"
    for text in ("without a label map: 1 (a/a)", "without an image: 1 (b/b)", "1 (a/other.png)"):
        assert text in caplog.text


def a_value(root):
    pixel_sets.voc(root, "a")
    pixel_sets.label_map(root / "SegmentationClass" / "a.png", np.full(pixel_sets.SIDES, 37))


def colours(root):
    pixel_sets.voc(root, "a")
    pixel_sets.label_map(root / "SegmentationClass" / "a.png", mode="RGB")


def a_test_without_maps(root):
    pixel_sets.voc(root, "ab", {"train": "a", "val": "b"})
    (root / "SegmentationClass" / "b.png").unlink()


def boxes_only(root):
    picture(root / "JPEGImages" / "a.jpg")


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (a_value, "voc:{}", "none of 1 label maps can be used: a.jpg: label map .*a.png: the value "
         "37 in 2,400 pixels; expected 0 to 20, or 255"),
        (colours, "voc:{}", r"no image with a label map is left; label maps that are no PNG"),
        (a_test_without_maps, "voc:{}", r"left; images without a label map: 1 \(b\)"),
        (lambda root: pixel_sets.voc(root, "a", {"val": "a"}), "voc:{}", "lists of val in .*none"),
        (lambda root: pixel_sets.voc(root, "a", {"train": ["../a"]}), "voc:{}", "'../a' is no"),
        (boxes_only, "voc:{}", "holds JPEGImages; expected images in .*VOCdevkit/VOC2012"),
        (boxes_only, "voc:{}/JPEGImages/a.jpg", "holds no folders"),
        (boxes_only, "cityscapes:{}", "no leftImg8bit/train; .*it holds JPEGImages"),
        (boxes_only, "voc:{}x", "does not exist"),
        (boxes_only, "voc:gs://bucket/x", "gs:// is not supported"),
        (boxes_only, "cityscape:{}", "did you mean 'cityscapes'"),
        (boxes_only, "voc:", "expected 'voc:PATH'"),
    ],
)  # fmt: skip
def test_other_sets_are_refused(make, spec, message, tmp_path):
    make(tmp_path)
    with pytest.raises((InputError, MissingError), match=message):
        open_segmented(spec.format(tmp_path))


def test_files_that_changed_are_named(tmp_path):
    pixel_sets.voc(tmp_path, "abcd")
    images = open_segmented(f"voc:{tmp_path}").train.images
    labels = tmp_path / "SegmentationClass"
    pixel_sets.label_map(labels / "a.png", np.zeros((9, 7)))
    (labels / "b.png").unlink()
    content = (labels / "c.png").read_bytes()
    (labels / "c.png").write_bytes(content[: len(content) // 2])
    for image, message in zip(
        images, (r"a.png: 7 x 9 pixels; expected .* 60 x 40", "b.png: .*No such", "c.png: .*trunc")
    ):
        with pytest.raises(BadImage, match=rf"{image.name}: label map .*{message}"):
            image.labels(10**4)
    with pytest.raises(BadImage, match=r"expected 1 to data\.max_pixels=100"):
        images[3].labels(100)


def test_the_classes_of_voc():
    assert len(set(voc_pixels.CLASSES)) == 21
    # Behind the background in the order of the alphabet, as in the kit.
    assert list(voc_pixels.CLASSES[1:]) == sorted(voc_pixels.CLASSES[1:])
