"""Annotated images as people have them, written into a folder."""

import json

import cv2
import numpy as np

from moco_jax.detection.annotated import Annotated, AnnotatedSet
from tests import encoded


def picture(path, height=40, width=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), encoded.smooth(height, width, seed=seed))


def xml(*objects):
    """An annotation of (name, x1, y1, x2, y2, difficult), of an image that it calls otherwise."""
    parts = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, difficult in objects
    )
    size = "<size><width>9</width><height>9</height></size>"
    return f"<annotation><filename>other.jpg</filename>{size}{parts}</annotation>"


CAT, DOG = ("cat", 1, 1, 30, 20, 0), ("dog", 11, 6, 60, 40, 1)


def voc(root, names, lists=(), annotations="Annotations", images="JPEGImages", objects=(CAT, DOG)):
    """Images of VOC's form, and lists of them: split -> names."""
    for i, name in enumerate(names):
        picture(root / images / f"{name}.jpg", seed=i)
        (root / annotations).mkdir(exist_ok=True)
        (root / annotations / f"{name}.xml").write_text(xml(*objects))
    for split, some in dict(lists).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in some))


def coco(root, content):
    """COCO's file, and the images that it names; what stands after `coco:`."""
    root.mkdir(exist_ok=True)
    for image in content["images"]:
        picture(root / "images" / image["file_name"], image["height"], image["width"], image["id"])
    (root / "file.json").write_text(json.dumps(content))
    return f"{root / 'file.json'}:{root / 'images'}"


def annotated(height, width, boxes, classes, difficult=(), shapes=(), keypoints=0):
    """An image without a file."""
    n = len(boxes)
    points = np.zeros((n, keypoints, 3), np.float32)
    return Annotated(
        path="", name="made", number=0, height=height, width=width,
        boxes=np.array(boxes, np.float32).reshape(-1, 4), classes=np.array(classes, np.int32),
        difficult=np.resize(np.array(difficult, bool), n) if n else np.zeros(0, bool),
        crowd=np.zeros(n, bool), ids=np.arange(n), shapes=shapes, keypoints=points,
    )  # fmt: skip


def a_set(images, classes=3, **more):
    return AnnotatedSet("made", tuple(images), tuple("abcdefgh"[:classes]), **more)
