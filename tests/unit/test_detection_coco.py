"""Annotations of COCO's form: what is read, what is left out, what is refused."""

import copy
import json

import numpy as np
import pytest

from moco_jax.detection import coco_ap, masks
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.detections import Detections
from moco_jax.errors import InputError, MissingError, WrongInputError
from tests import annotations

CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 3, "file_name": "below/b.png", "height": 20, "width": 30},
    ],
    "categories": [
        {"id": 9, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]},
        {"id": 4, "name": "kite"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1.5, 2, 10, 20], "iscrowd": 0,
         "segmentation": [[1.5, 2, 11.5, 2, 11.5, 22]], "keypoints": [2, 3, 2, 0, 0, 0, 5, 6, 1]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 60, 40], "iscrowd": 1,
         "segmentation": {"size": [40, 60], "counts": [100, 300, 2000]}},
        {"id": 5, "image_id": 3, "category_id": 4, "bbox": [20, 10, 20, 5]},
    ],
}  # fmt: skip


def opened(root, content):
    return open_annotated(f"coco:{annotations.coco(root, content)}").train


def changed(part, i, **values):
    content = copy.deepcopy(CONTENT)
    content[part][i] |= values
    return content


def test_what_is_read(tmp_path, caplog):
    caplog.set_level("INFO")
    data = opened(tmp_path, CONTENT)
    first, second = data.images
    assert data.class_names == ("kite", "person")
    assert data.category_ids == (4, 9)
    assert (first.number, second.name) == (7, "below/b.png")
    np.testing.assert_array_equal(first.boxes, [[1.5, 2, 11.5, 22], [0, 0, 60, 40]])
    assert first.classes.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    # COCO has numbers of pixels there, whose centres are meant; what is not labelled stays 0.
    np.testing.assert_array_equal(first.keypoints[0], [[2.5, 3.5, 2], [0, 0, 0], [5.5, 6.5, 1]])
    np.testing.assert_array_equal(first.keypoints[1], np.zeros((3, 3)))
    assert data.mirrored_keypoints().tolist() == [0, 2, 1]
    crowd = masks.whole(first.shapes[1], 40, 60)
    np.testing.assert_array_equal(np.flatnonzero(crowd.T.ravel()), np.arange(100, 400))
    np.testing.assert_array_equal(second.boxes, [[20, 10, 30, 15]])
    assert second.pixels(10**6).shape == (20, 30, 3)
    text = "mended: boxes past the border: 1 (below/b.png); 1 crowds, not trained on"
    assert text in caplog.text
    assert [len(image) for image in data.for_training().images] == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("annotations", 0, category_id=5), "annotations of no category: 1 (a.jpg)"),
        (changed("annotations", 0, category_id=[9]), "annotations of no category: 1 (a.jpg)"),
        (changed("annotations", 0, image_id=8), "annotations of no image: 1 (image 8)"),
        (changed("annotations", 0, bbox=[1, 2]), "annotations without a box: 1 (a.jpg)"),
        (changed("annotations", 0, bbox=["1", 2, 3, 4]), "annotations without a box: 1 (a.jpg)"),
        (changed("annotations", 0, bbox=[1, 2, 0, 5]), "boxes without an area: 1 (a.jpg)"),
        (changed("annotations", 0, segmentation=[[1, 2, 3, 4]]), "a polygon of 4 numbers"),
        (changed("annotations", 0, segmentation=[[1, 2, 3, 4, 5, 1e9]]), "a polygon far outside"),
        (changed("annotations", 0, segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "far outside"),
        (changed("annotations", 0, segmentation=[["x"] * 6]), "a polygon of what are no numbers"),
        (changed("annotations", 0, segmentation="x"), "str in place of polygons"),
        (changed("annotations", 1, segmentation={"size": [1, 1], "counts": [1]}), "for [1, 1]"),
        (changed("annotations", 1, segmentation={"size": [40, 60], "counts": [9]}), "not add up"),
        (changed("annotations", 1, segmentation={"size": [40, 60], "counts": "\x7f"}), "are none"),
        (changed("annotations", 1, segmentation={"size": [40, 60], "counts": "PPPP"}), "break off"),
    ],
)
def test_what_is_no_object_is_left_out_and_counted(content, message, tmp_path, caplog):
    caplog.set_level("INFO")
    opened(tmp_path, content)
    assert message in caplog.text


def test_images_and_files_without_each_other_are_said_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    where = annotations.coco(tmp_path, CONTENT)
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "c.jpg")
    assert [image.name for image in open_annotated(f"coco:{where}").train.images] == ["below/b.png"]
    assert "images without a file: 1 (a.jpg)" in caplog.text
    assert "files without an entry: 1 (c.jpg)" in caplog.text
    (tmp_path / "images" / "below" / "b.png").unlink()
    with pytest.raises(InputError, match=r"no image is left; .*images without a file: 2 \(a.jpg\)"):
        open_annotated(f"coco:{where}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 10**5, "is no JSON"),
        ("{", "is no JSON"),
        ("[]", "no list 'images'"),
        (CONTENT | {"annotations": None}, "no list 'annotations'"),
        (CONTENT | {"categories": []}, "no categories"),
        (CONTENT | {"images": [{"id": 1}]}, r"images\[0\] lacks one of file_name, height, id"),
        (changed("images", 0, file_name="../file.json"), "no file below the folder"),
        (changed("images", 0, file_name="/etc/passwd"), "no file below the folder"),
        (changed("images", 0, file_name=3), "no file below the folder"),
        (changed("images", 0, height=10**9), "60 x 1000000000 pixels"),
        (changed("images", 0, width="60"), "'60' x 40 pixels"),
        (changed("images", 0, id=3), "two images have the number 3"),
        (changed("images", 0, id="7"), "number of images is '7'; expected an integer"),
        (changed("annotations", 0, keypoints=[1, 2, 2]), "another number than 3"),
        (changed("annotations", 0, keypoints=["1"] * 9), "keypoints that are no numbers"),
        (changed("categories", 1, keypoints=["tail"]), "different keypoints"),
        (changed("categories", 1, keypoints=5), "no list of names"),
        (changed("annotations", 0, id=1 << 63), "expected an integer from 0 on"),
    ],
)
def test_hostile_and_broken_files_are_refused(content, message, tmp_path):
    where = annotations.coco(tmp_path, CONTENT)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_annotated(f"coco:{where}")


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("{0}/file.json", InputError, "expected coco:ANNOTATIONS.json:IMAGES"),
        ("{0}/fill.json:{0}/images", MissingError, "did you mean '.*file.json'"),
        ("{0}/file.json:{0}/imags", MissingError, "did you mean '.*images'"),
        ("{0}:{0}/images", InputError, "expected a file and a folder"),
        ("{0}/file.json:{0}/file.json", InputError, "expected a file and a folder"),
    ],
)
def test_what_is_named_must_be_there(where, error, message, tmp_path):
    annotations.coco(tmp_path, CONTENT)
    with pytest.raises(error, match=message):
        open_annotated(f"coco:{where.format(tmp_path)}")


def test_a_keypoint_without_its_mirror_is_named(tmp_path):
    content = changed("categories", 0, keypoints=["nose", "left_eye", "mouth"])
    with pytest.raises(InputError, match="'left_eye' has no 'right_eye'"):
        opened(tmp_path, content).mirrored_keypoints()


ODD = (
    None,
    "x",
    "",
    [],
    {},
    [[]],
    [[1] * 6],
    [None] * 4,
    10**400,
    -1,
    0,
    1e308,
    float("nan"),
    True,
)
FIELDS = [
    (part, field)
    for part, fields in {
        "images": ("id", "file_name", "height", "width"),
        "categories": ("id", "name", "keypoints"),
        "annotations": (
            *("id", "image_id", "category_id", "bbox", "iscrowd", "segmentation", "keypoints"),
            "area",
        ),
    }.items()
    for field in fields
]


@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_whatever_stands_in_a_field_it_is_read_or_refused(part, field, tmp_path):
    """And what was read can be evaluated and drawn."""
    annotations.coco(tmp_path, CONTENT)
    one = np.array([[1, 2, 9, 9]], float), np.ones(1), np.zeros(1, int)
    bits = {size: masks.encode(np.ones(size, bool)) for size in ((40, 60), (20, 30))}
    for value in ODD:
        (tmp_path / "file.json").write_text(json.dumps(changed(part, 0, **{field: value})))
        try:
            data = open_annotated(f"coco:{tmp_path}/file.json:{tmp_path}/images").train
        except WrongInputError:
            continue
        points = len(data.keypoint_names)
        found = [
            Detections(*one, (bits[image.height, image.width],), np.zeros((1, points, 3)))
            for image in data.images
        ]
        kind = {"segmentation": "masks", "keypoints": "keypoints"}.get(field, "boxes")
        coco_ap.evaluate(data, found, kind, spreads=(0.1,) * points)
        for image in data.images:
            masks.all_in_boxes(image.shapes, image.boxes)
