"""VOC and COCO as TFDS's own code prepares them, of made images and without TensorFlow."""

import json
import types

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.object_detection import coco, voc

from tests import annotations

SIZES = {"a": (333, 500), "b": (375, 499), "c": (61, 37)}
OBJECTS = {  # name, x1, y1, x2, y2, difficult: as in VOC's files, from 1 on
    "a": [("cat", 1, 1, 500, 333, 0), ("dog", 7, 123, 331, 332, 1)],
    "b": [("dog", 45.7, 100.123, 311, 375, 0), ("cat", 499, 2, 499, 9, 0)],  # the last is flat
    "c": [("tvmonitor", 13, 17, 36, 59, 0)],
}
NAMES = [f"kind {i}" for i in range(80)]
TENSORFLOW = types.SimpleNamespace(
    int64=np.int64, io=types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open))
)


def prepare(builder, module, root, data_dir, monkeypatch):
    """What TFDS's code makes of files that lie below a root as in its archives."""
    monkeypatch.setattr(module, "tf", TENSORFLOW)
    there = lambda _, urls: dict.fromkeys(urls, str(root))  # noqa: E731
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", there)
    builder(data_dir).download_and_prepare(file_format="array_record")
    monkeypatch.undo()


def prepare_voc(root, data_dir, year, lists, monkeypatch):
    """VOC of a year: split -> names, each of an image of SIZES by its first letter."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in {name for names in lists.values() for name in names}:
        height, width = SIZES[name[0]]
        annotations.picture(folder / "JPEGImages" / f"{name}.jpg", height, width, len(name))
        (folder / "Annotations").mkdir(exist_ok=True)
        # TFDS reads tags that our reader does not, and takes the size from here.
        text = annotations.xml(*OBJECTS[name[0]])
        text = text.replace("<width>9<", f"<width>{width}<")
        text = text.replace("<height>9<", f"<height>{height}<")
        text = text.replace("<difficult>", "<pose>Left</pose><truncated>0</truncated><difficult>")
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in (lists | {"trainval": lists["train"] + lists["val"]}).items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    prepare(lambda to: voc.Voc(config=year, data_dir=to), voc, root, data_dir, monkeypatch)


def an_annotation(number, image, kind, box, crowd=0):
    return {"id": number, "image_id": image, "category_id": 2 * kind + 1, "bbox": box,
            "area": 0.7 * box[2] * box[3], "iscrowd": crowd, "segmentation": []}  # fmt: skip


CONTENT = {
    "train2017": ([7], [an_annotation(70, 7, 3, [0, 0, 60, 40])]),
    "val2017": (
        [9, 4, 6],
        [
            an_annotation(50, 9, 0, [1.5, 2, 10.25, 20]),
            an_annotation(51, 9, 79, [0, 0, 60, 40], crowd=1),
            an_annotation(52, 4, 5, [16.95, 5.86, 28.3, 26.03]),
            an_annotation(53, 4, 5, [20, 20, 0, 9]),  # flat
        ],
    ),
    "test2017": ([1], []),
}


def prepare_coco(root, data_dir, monkeypatch):
    """COCO 2017 of 80 classes, whose numbers are odd."""
    categories = [{"id": 2 * i + 1, "name": name} for i, name in enumerate(NAMES)]
    (root / "annotations").mkdir(parents=True)
    for split, (numbers, entries) in CONTENT.items():
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in numbers]
        for number in numbers:
            annotations.picture(root / split / f"{number}.jpg", seed=number)
        kind = "image_info" if split.startswith("test") else "instances"
        content = {"images": images, "annotations": entries, "categories": categories}
        (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    prepare(lambda to: coco.Coco(config="2017", data_dir=to), coco, root, data_dir, monkeypatch)
