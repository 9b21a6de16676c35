"""Images of coloured shapes with exact boxes, outlines and keypoints, and runs on them."""

import json

import cv2
import numpy as np

from configs import detection

SIDE = 96
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 220))
KEYPOINTS = ("top", "corner")


def polygon(kind, x, y, width, height):
    """A rectangle, a triangle or a diamond in a box."""
    return (
        [(x, y), (x + width, y), (x + width, y + height), (x, y + height)],
        [(x + width / 2, y), (x + width, y + height), (x, y + height)],
        [(x + width / 2, y), (x + width, y + height / 2), (x + width / 2, y + height),
         (x, y + height / 2)],
    )[kind]  # fmt: skip


def write(root, images=4, seed=0):
    """COCO's file of images with two or three shapes each; what stands after `coco:`."""
    rng, annotations, entries = np.random.default_rng(seed), [], []
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        picture = rng.integers(0, 40, (SIDE, SIDE, 3)).astype(np.uint8)
        for place in range(2 + number % 2):
            kind = int((number + place) % 3)
            width, height = rng.integers(24, 40, 2).tolist()
            x, y = (
                int(start) + 46 * at
                for start, at in zip(rng.integers(2, 6, 2), (place % 2, place // 2))
            )
            corners = polygon(kind, x, y, width, height)
            cv2.fillPoly(picture, [np.round(corners).astype(np.int32)], COLOURS[kind][::-1])
            # Within, not on the border: a proposal that ends short of one learns nothing of it.
            middle = np.array([x + width / 2, y + height / 2])
            top, corner = (
                ((at + middle) / 2).tolist() for at in map(np.array, (corners[0], corners[-1]))
            )
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": kind + 1,
                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
                "segmentation": [np.ravel(corners).tolist()], "num_keypoints": 2,
                "keypoints": [*top, 2, *corner, 2],
            })  # fmt: skip
        assert cv2.imwrite(str(root / "images" / f"{number}.png"), picture)
        entries.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
    categories = [
        {"id": i + 1, "name": name, "keypoints": KEYPOINTS}
        for i, name in enumerate(("rectangle", "triangle", "diamond"))
    ]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (root / "file.json").write_text(json.dumps(content))
    return f"coco:{root / 'file.json'}:{root / 'images'}"


def tiny_config(source, **options):
    """A run of few steps of a detector of few channels on the shapes, tested on the same."""
    c = detection.get_config("bccd_demo")
    c.data.update(source=source, batch_size=8, eval_batch_size=8, threads=2)
    c.evals.source = source
    c.model.resnet.width = 1 / 16
    c.detection.update(
        canvas=(64, 64), sides=(48, 64), test_side=64, longest=64, channels=8, features=16,
        samples=32, proposals=(50, 40), test_proposals=(30, 20), boxes=3, precise_batches=2,
        spreads=(0.05, 0.05), every_epochs=0.0,
    )  # fmt: skip
    c.detection.update(options)
    c.epochs, c.optim.warmup_epochs = 4.0, 1.0
    c.log.update(every_steps=1, tensorboard=False)
    c.checkpoint.every_steps = 2
    return c
