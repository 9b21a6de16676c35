"""Annotations of Pascal VOC's form: where they lie, what is mended, what is refused."""

import pathlib

import numpy as np
import pytest

from moco_jax.data.summary import LeftOut
from moco_jax.detection import corners, xmlfile
from moco_jax.detection.annotated import open_annotated
from moco_jax.errors import BadImage, InputError, MissingError
from tests import annotations
from tests.annotations import CAT, DOG


def names(part):
    return None if part is None else [pathlib.Path(image.name).stem for image in part.images]


def two_folders(root):
    annotations.voc(root, "abc", annotations="annotations", images="images")


def one_folder(root):
    annotations.voc(root, "abc", annotations=".", images=".")


def three_folders(root):
    for folder, some in {"train": "abc", "valid": "de", "test": "f"}.items():
        annotations.voc(root / folder, some, annotations=".", images=".")


def listed(**lists):
    return lambda root: annotations.voc(root, "abcdef", lists)


@pytest.mark.parametrize(
    ("make", "train", "test", "said"),
    [
        (two_folders, "abc", None, "trains by all of it"),
        (one_folder, "abc", None, "trains by all of it"),
        (three_folders, "abc", "f", "trains by train, tests by test, val is not used"),
        (listed(), "abcdef", None, "trains by all of it"),
        (
            listed(train="ab", val="c", trainval="abc", test="de"),
            "abc",
            "de",
            "by trainval, tests by test",
        ),
        (listed(train="ab", val="c", trainval="abc"), "ab", "c", "trains by train, tests by val"),
        (listed(trainval="ba"), "ba", None, "trains by trainval"),
    ],
)
def test_where_files_lie_and_which_split_they_are(make, train, test, said, tmp_path, caplog):
    caplog.set_level("INFO")
    make(tmp_path)
    splits = open_annotated(f"voc:{tmp_path}")
    assert names(splits.train) == list(train)
    assert names(splits.test) == (test and list(test))
    assert any(line.endswith(said) for line in caplog.messages)
    image = splits.train.images[0]
    # The image's own size, not what the XML says; pixels from 1 on, both ends belonging to a box.
    assert (image.height, image.width) == image.pixels(10**6).shape[:2] == (40, 60)
    np.testing.assert_array_equal(image.boxes, [[0, 0, 30, 20], [10, 5, 60, 40]])
    assert [splits.train.class_names[i] for i in image.classes] == ["cat", "dog"]
    assert image.difficult.tolist() == [False, True]


def test_sets_are_joined_as_voc07_and_12(tmp_path):
    annotations.voc(tmp_path / "2007", "abc", {"train": "a", "trainval": "ab", "test": "c"})
    later = {"train": "d", "trainval": "de", "val": "e"}
    annotations.voc(tmp_path / "2012", "de", later, objects=[("ant", *CAT[1:])])
    splits = open_annotated(f"voc:{tmp_path / '2007'},{tmp_path / '2012'}")
    assert (names(splits.train), names(splits.test)) == (list("abde"), ["c"])
    assert splits.train.class_names == splits.test.class_names == ("ant", "cat", "dog")
    assert splits.train.images[3].classes.tolist() == [0]


def test_what_has_no_partner_is_said_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    annotations.voc(tmp_path, "abc")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    (tmp_path / "Annotations" / "b.xml").unlink()
    (tmp_path / "Annotations" / "d.xml").write_text(annotations.xml(CAT))
    annotations.picture(tmp_path / "JPEGImages" / "e.jpg")
    (tmp_path / "JPEGImages" / "d.jpg").write_bytes(b"no image")
    (tmp_path / "Annotations" / "c.xml").write_text(
        annotations.xml(CAT).replace("</annotation>", "<object><name>ox</name></object>"
                                     "<object><name>cat</name><part><name>head</name></part>"
                                     "</object></annotation>")
    )  # fmt: skip
    assert names(open_annotated(f"voc:{tmp_path}").train) == ["c"]
    for text in (
        "annotations without an image: 1 (a)", "images without an annotation: 2 (b)",
        "images that cannot be read: 1 (d)", "objects without a name or a box: 2 (c)",
    ):  # fmt: skip
        assert text in caplog.text


@pytest.mark.parametrize(
    ("box", "first", "wanted", "reason"),
    [
        ((1, 1, 60, 40), 1, (0, 0, 60, 40), ""),
        ((30, 20, 11, 6), 1, (10, 5, 30, 20), corners.SWAPPED),
        ((30, 6, 11, 20), 1, (10, 5, 30, 20), corners.SWAPPED),
        ((-5, 1, 70, 9), 1, (0, 0, 60, 9), corners.PAST),
        ((0, 0, 60.3, 40), 0, (0, 0, 60, 40), ""),
        ((7, 7, 7, 7), 1, None, corners.FLAT),
        ((7, 7, 9, 7), 0, None, corners.FLAT),
        ((61, 1, 80, 9), 1, None, corners.OUTSIDE),
        ((1, 1, float("nan"), 9), 1, None, corners.NO_NUMBER),
        ((1, 1, float("inf"), 9), 1, None, corners.NO_NUMBER),
    ],
)
def test_boxes_are_mended_or_left_out_and_counted(box, first, wanted, reason):
    account = corners.Account(LeftOut(), LeftOut())
    given = np.array([(1, 1, 2, 2), box], np.float64)
    boxes, kept = corners.mend(given, 40, 60, first, account, "x.jpg")
    assert kept.tolist() == ([0] if wanted is None else [0, 1])
    if wanted:
        assert boxes[1].tolist() == list(wanted)
    counted = dict(account.left_out if wanted is None else account.mended)
    assert counted == ({reason: (1, "x.jpg")} if reason else {})


LAUGHS = "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><annotation>&b;</annotation>"
OUTER = "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><annotation>&a;</annotation>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS.encode(), "document type"),
        (OUTER.encode(), "document type"),
        (LAUGHS.encode("utf-16"), "document type"),
        (b"<!DOCTYPE annotation SYSTEM 'http://example.com/x.dtd'><annotation/>", "document type"),
        (b"<a>" * 10**5, "32 elements within each other"),
        (b" " * (17 << 20), "17,825,792 bytes"),
        (b"<annotation>&b;</annotation>", "is no XML"),
        (b"<?xml version='1.0' encoding='nonsense'?><a/>", "is no XML"),
        (b"<annotation><object>", "is no XML"),
        (b"\xff\xd8\xff", "is no XML"),
        (b"", "is no XML"),
        (annotations.xml(("cat", "", 1, 2, 2, 0)).encode(), "expected four numbers"),
    ],
)
def test_hostile_and_broken_xml_is_refused(content, message, tmp_path):
    annotations.voc(tmp_path, "a")
    (tmp_path / "Annotations" / "a.xml").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.xml.*{message}"):
        open_annotated(f"voc:{tmp_path}")


def test_plain_xml_is_read_as_the_library_reads_it():
    text = annotations.xml(CAT, ("Bär & Co".replace("&", "&amp;"), *DOG[1:]))
    root = xmlfile.parse(f"<?xml version='1.0' encoding='latin-1'?>{text}".encode("latin-1"), "x")
    assert [one.findtext("name") for one in root.findall("object")] == ["cat", "Bär & Co"]


def no_annotations(root):
    annotations.picture(root / "a.jpg")


def a_path_in_a_list(root):
    annotations.voc(root, "a", {"train": ["../a"]})


def nothing_left(root):
    annotations.voc(root, "a", {"train": ["b"]})


def nothing_left_to_test(root):
    annotations.voc(root, "a", {"train": ["a"], "val": ["b"]})


def only_a_test(root):
    annotations.voc(root, "a", {"test": ["a"]})


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (no_annotations, "voc:{}", "holds no annotations; expected XML files.*a.jpg"),
        (a_path_in_a_list, "voc:{}", r"train.txt: '../a' is no name"),
        (nothing_left, "voc:{}", r"no annotated image is left; images without an annot.*\(b\)"),
        (nothing_left_to_test, "voc:{}", r"no annotated image is left; images without.*\(b\)"),
        (only_a_test, "voc:{}", "lists of test; none to train on"),
        (no_annotations, "voc:{}x", "does not exist"),
        (no_annotations, "voc:gs://bucket/x", "gs:// is not supported"),
        (no_annotations, "vok:{}", "did you mean 'voc'"),
        (no_annotations, "voc:", "expected 'voc:PATH'"),
    ],
)
def test_other_sets_are_refused(make, spec, message, tmp_path):
    make(tmp_path)
    with pytest.raises((InputError, MissingError), match=message):
        open_annotated(spec.format(tmp_path))


def test_an_image_that_changed_is_named(tmp_path):
    annotations.voc(tmp_path, "ab")
    images = open_annotated(f"voc:{tmp_path}").train.images
    annotations.picture(tmp_path / "JPEGImages" / "a.jpg", 30, 20)
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(BadImage, match=r"a\.jpg has 20 x 30 pixels; its annotation says 60 x 40"):
        images[0].pixels(10**6)
    with pytest.raises(BadImage, match=r"b.jpg: .*No such file"):
        images[1].pixels(10**6)


def test_a_size_behind_much_else_is_found(tmp_path):
    """Cameras put previews and profiles before it, up to 64 kB each."""
    annotations.voc(tmp_path, "a")
    file = tmp_path / "JPEGImages" / "a.jpg"
    begin, end = file.read_bytes()[:2], file.read_bytes()[2:]
    file.write_bytes(begin + (b"\xff\xe5\xff\xff" + bytes(65533)) * 2 + end)
    (image,) = open_annotated(f"voc:{tmp_path}").train.images
    assert (image.height, image.width) == image.pixels(10**6).shape[:2] == (40, 60)


def test_crowds_and_empty_images_are_not_trained_on(tmp_path):
    full, empty = (annotations.annotated(9, 9, [[0, 0, 5, 5]] * n, [0] * n) for n in (2, 0))
    full.crowd[0] = True
    (left,) = annotations.a_set([empty, full]).for_training().images
    assert (len(left), left.ids.tolist()) == (1, [1])
    with pytest.raises(InputError, match="none of 1 images has an object"):
        annotations.a_set([empty]).for_training()
