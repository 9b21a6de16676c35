"""What is drawn of detections, and what a report shows of them."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from moco_jax import config, report
from moco_jax.detection import drawing, masks, shown
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.detections import Detections
from moco_jax.report import detected, rundir
from tests import annotations, runs

GRAY = np.full((80, 120, 3), 128, np.uint8)


def found(boxes, scores, classes, **more):
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
                      np.array(classes, np.int64), **more)  # fmt: skip


def changed(picture):
    return (picture != GRAY).any(-1)


def test_a_box_is_a_frame_and_what_is_unsure_is_left_out():
    one = found([[20, 30, 60, 70], [80, 40, 110, 70]], [0.9, 0.2], [0, 1])
    picture = drawing.draw(GRAY, one, ["cat", "dog"], 0.5)
    there = changed(picture)
    assert there[30:70, 20].all()
    assert there[30:70, 59].all()
    assert there[30, 20:60].all()
    assert there[69, 20:60].all()
    assert not there[31:69, 21:59].any()
    assert not there[:, 80:].any()
    assert there[:30, 20:60].any()  # its class and score
    assert (GRAY == 128).all()


def test_masks_and_keypoints_are_where_they_are():
    bits = np.zeros((80, 120), bool)
    bits[40:60, 30:50] = True
    points = np.array([[[100.0, 50.0, 1.0]]])
    one = found([[20, 30, 60, 70]], [1], [0], masks=(masks.encode(bits),), keypoints=points)
    there = changed(drawing.draw(GRAY, one, ["cat"]))
    assert there[40:60, 30:50].all()
    assert not there[45, 51:58].any()
    assert there[50, 100]


def test_the_truth_is_drawn_and_unlabelled_keypoints_are_not():
    outline = masks.Polygons((np.array([30.0, 40, 50, 40, 50, 60, 30, 60]),))
    image = annotations.annotated(80, 120, [[20, 30, 60, 70]], [1], shapes=(outline,), keypoints=2)
    image.keypoints[0] = [100, 50, 2], [110, 10, 0]
    there = changed(drawing.draw_truth(GRAY, image, ["cat", "dog"]))
    assert there[45, 40]
    assert there[50, 100]
    assert not there[10, 110]


@pytest.mark.parametrize("box", [[-5, -5, 0, 0], [119.9, 79.9, 120, 80], [0, 0, 120, 80]])
def test_boxes_at_the_border_are_drawn(box):
    assert changed(drawing.draw(GRAY, found([box], [0.5], [0]), ["a name of many letters"])).any()


def picture_of(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_a_report_shows_images_beside_their_truth_and_curves(tmp_path, caplog):
    annotations.voc(tmp_path / "voc", [f"{i}" for i in range(9)])
    data = open_annotated(f"voc:{tmp_path / 'voc'}").train
    (tmp_path / "voc" / "JPEGImages" / "0.jpg").write_bytes(b"none")  # the first that is shown
    answers = [found(i.boxes[:1], [0.9], i.classes[:1]) for i in data.images]
    workdir = runs.write_run(tmp_path / "run")
    shown.save(workdir, data, answers, config.default().data)
    (run,) = rundir.read_all([workdir])
    pairs = detected.pairs(run)
    assert len(pairs) == shown.IMAGES - 1
    assert picture_of(pairs[0]["truth"]).size == picture_of(pairs[0]["found"]).size == (60, 40)
    names = dict(zip(data.class_names, run.detections["precision"]))
    assert (names["cat"] == 1).all()  # dogs are difficult, all of them
    assert [trace["name"] for trace in detected.figure(run)["data"]] == ["cat"]
    report.write(workdir)
    page = (workdir / report.FILE).read_text()
    assert '<section id="detections">' in page
    assert page.count('alt="found"') == len(pairs)
    assert re.search(r'"precision0": ?\{', page)
    both = report.compare([workdir, runs.write_run(tmp_path / "other")], tmp_path / "both.html")
    assert both.read_text().count('alt="found"') == len(pairs)
    shown.save(workdir, data, answers[1:], config.default().data)
    assert "No detections in the report: " in caplog.text


def test_a_report_without_detections_has_no_such_section(tmp_path):
    workdir = runs.write_run(tmp_path / "run")
    report.write(workdir)
    assert 'id="detections"' not in (workdir / report.FILE).read_text()
