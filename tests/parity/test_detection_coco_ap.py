"""COCO's average precision against pycocotools on files."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as library
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moco_jax.detection import coco_ap, masks
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.detections import Detections
from tests import annotations

pytestmark = pytest.mark.parity
PEOPLE = [*(f"{side}_{part}" for part in "abcdefgh" for side in ("left", "right")), "nose"]


def an_annotation(rng, i, image):
    """Of COCO's, with a polygon or run lengths, the area of its own, and keypoints."""
    box = rng.integers(0, 120, 4) / 4 + [0, 0, 8, 8]
    x, y, width, height = box.tolist()
    crowd = int(rng.random() < 0.2)
    corners = [x, y, x + width, y, x + width * 0.7, y + height, x, y + height * 0.9]
    outline = [[round(v, 2) for v in corners]]
    if crowd:
        bits = library.decode(library.merge(library.frPyObjects(outline, 80, 80)))
        counts = np.diff(np.flatnonzero(np.diff(bits.T.ravel(), prepend=2, append=2)))
        outline = {"size": [80, 80], "counts": ([0] if bits[0, 0] else []) + counts.tolist()}
    points = rng.integers(0, 80, (17, 3)) % [80, 80, 3]
    return {
        "id": i + 1, "image_id": image, "category_id": int(rng.choice([2, 5, 11])),
        "bbox": [x, y, width, height],
        "iscrowd": crowd, "segmentation": outline, "area": round(width * height * 0.8, 2),
        "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
    }  # fmt: skip


def a_file(root, seed):
    rng = np.random.default_rng(seed)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 80, "width": 80} for i in (9, 4, 6)]
    categories = [{"id": i, "name": f"c{i}", "keypoints": PEOPLE} for i in (11, 2, 5)]
    numbers = rng.choice([9, 4], 8).tolist()  # the third image has none
    some = [an_annotation(rng, i, image) for i, image in enumerate(numbers)]
    content = {"images": images, "categories": categories, "annotations": some, "info": {}}
    return annotations.coco(root, content)


def answers(rng, content):
    """Results as people write them into a file, of true objects moved a bit; scores with ties."""
    for one in content["annotations"] * 2:
        box = (np.array(one["bbox"]) + rng.integers(-4, 5, 4) / 4).clip(0.25).tolist()
        x, y, width, height = box
        points = np.array(one["keypoints"], float).reshape(-1, 3) + rng.integers(-2, 3, (17, 3))
        outline = library.merge(library.frPyObjects([[x, y, x + width, y, x, y + height]], 80, 80))
        yield {
            "image_id": one["image_id"], "category_id": one["category_id"],
            "score": int(rng.integers(0, 5)) / 4, "bbox": box,
            "segmentation": outline | {"counts": outline["counts"].decode()},
            "keypoints": points.ravel().tolist(),
        }  # fmt: skip


def as_detections(data, results):
    for image in data.images:
        mine = [r for r in results if r["image_id"] == image.number]
        boxes = np.array([r["bbox"] for r in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        points = np.array([r["keypoints"] for r in mine]).reshape(-1, 17, 3)
        points = points + np.array([0.5, 0.5, 0])
        classes = np.array([data.category_ids.index(r["category_id"]) for r in mine], int)
        yield Detections(boxes, np.array([r["score"] for r in mine], float), classes,
                         tuple(r["segmentation"] for r in mine), points)  # fmt: skip


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_cocos_numbers_are_those_of_the_library_on_files(kind, tmp_path):
    seen = set()
    for seed in range(67):  # with the three kinds 200 sets
        where = a_file(tmp_path / str(seed), seed)
        file = where.partition(":")[0]
        content = json.loads((tmp_path / str(seed) / "file.json").read_text())
        results = list(answers(np.random.default_rng(seed), content))
        unlike = {"boxes": "bbox", "masks": "segmentation", "keypoints": "keypoints"}
        others = set(unlike.values()) - {unlike[kind]}
        file_of_results = tmp_path / "results.json"
        file_of_results.write_text(
            json.dumps([{k: v for k, v in r.items() if k not in others} for r in results])
        )
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(file)
            run = COCOeval(truth, truth.loadRes(str(file_of_results)), coco_ap.KINDS[kind])
            run.evaluate()
            run.accumulate()
            run.summarize()
        data = open_annotated(f"coco:{where}").train
        found = coco_ap.evaluate(data, list(as_detections(data, results)), kind)
        assert list(found.values()) == run.stats.tolist()
        seen.add(found["AP"])
    assert len(seen) > 50
    assert all(0 < value < 1 for value in seen)


def test_what_a_reader_leaves_out_is_not_asked_for(tmp_path):
    """A file that lacks what the library needs, with boxes and outlines that are none."""
    one = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            one | {"id": 1, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]},
            one | {"id": 2, "bbox": [30, 30, -10, -10], "segmentation": [[1, 2]]},
            one | {"id": 3, "bbox": [5, 5, 0, 5]},
            one | {"id": 4, "image_id": 2},
        ],
    }
    where = annotations.coco(tmp_path, content)
    (tmp_path / "images" / "2.jpg").unlink()
    data = open_annotated(f"coco:{where}").train
    bits = np.zeros((40, 60), bool)
    bits[4:24, 4:24] = True
    boxes = np.array([[4, 4, 24, 24], [20, 20, 30, 30]], float)
    every = (masks.encode(bits), masks.encode(np.zeros_like(bits)))
    found = [Detections(boxes, np.array([0.9, 0.8]), np.zeros(2, int), every)]
    assert coco_ap.evaluate(data, found, "boxes")["AP"] == pytest.approx(1)
    assert coco_ap.evaluate(data, found, "masks")["AR100"] == pytest.approx(0.5)
    nothing = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
    assert coco_ap.evaluate(data, nothing, "boxes")["AP"] == 0
