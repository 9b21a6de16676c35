"""Average precision of COCO, by pycocotools: boxes, masks, keypoints."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moco_jax.detection import coco, masks
from moco_jax.detection.annotated import Annotated, AnnotatedSet
from moco_jax.detection.detections import Detections
from moco_jax.errors import InputError
from moco_jax.extras import extra

KINDS = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}
PEOPLE = 17  # keypoints that COCO has spreads of
_SIZED = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_NAMES = {
    "boxes": (*_SIZED, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
_NAMES["masks"] = _NAMES["boxes"]


def evaluate(
    data: AnnotatedSet, found: Sequence[Detections], kind: str, spreads: Sequence[float] = ()
) -> dict[str, float]:
    """COCO's numbers of detections, against the annotations as they were given.

    Args:
      data: N annotated images of COCO's form; what its reader left out is not asked for.
      found: N detections, in the same order.
      kind: a key of KINDS.
      spreads: of K keypoints, COCO's sigmas; (): COCO's of 17.

    Returns:
      Name -> in [0, 1]; -1 where there is nothing to be found.

    Raises:
      InputError: other than N detections, of what COCO does not have; pycocotools is missing.
    """
    if data.content is None:
        raise InputError(f"{data.name} is not in COCO's form; voc_ap evaluates its boxes")
    if len(found) != len(data):
        raise InputError(f"detections on {len(found)} images; expected {len(data)} of {data.name}")
    if kind not in KINDS:
        raise InputError(f"an evaluation of {kind!r}; expected one of {', '.join(KINDS)}")
    names, count = data.keypoint_names, len(spreads) or PEOPLE
    if kind == "keypoints" and count != len(names):
        raise InputError(f"{count} spreads of the {len(names)} keypoints of {data.name}; expected "
                         "one for each")  # fmt: skip
    with extra("detection", "COCO's evaluation"):
        from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # it prints tables
        truth = _loaded(_truth(data, kind))
        answers = truth.loadRes(list(written(data, found, kind))) if any(map(len, found)) else None
        run = COCOeval(truth, answers or _loaded(_empty(data)), KINDS[kind])
        run.params.imgIds = [image.number for image in data.images]
        if spreads:
            run.params.kpt_oks_sigmas = np.array(spreads)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(_NAMES[kind], run.stats.tolist()))


def _loaded(content: dict[str, Any]) -> Any:
    with extra("detection", "COCO's evaluation"):
        from pycocotools.coco import COCO
    out = COCO()
    out.dataset = content
    out.createIndex()
    return out


def _truth(data: AnnotatedSet, kind: str) -> dict[str, Any]:
    """What was given, without what its reader left out, and with what it may lack."""
    content, given = data.content(), {}
    for one in content["annotations"]:
        given[one["id"]] = one
    images = [{"id": i.number, "height": i.height, "width": i.width} for i in data.images]
    entries = [
        _entry(image, i, given[number], kind)
        for image in data.images
        for i, number in enumerate(image.ids.tolist())
    ]
    entries = {"annotations": entries, "info": {}}  # which an older library asks for
    return {"images": images, "categories": content["categories"]} | entries


def _entry(image: Annotated, i: int, given: dict[str, Any], kind: str) -> dict[str, Any]:
    """One annotation: what is good of it as it is given, what it lacks as it follows."""
    x, y, width, height = given["bbox"]
    box = [min(x, x + width), min(y, y + height), abs(width), abs(height)]
    area = given.get("area")
    entry = {name: given[name] for name in ("id", "image_id", "category_id")} | {
        "bbox": box,
        "area": area if coco.is_number(area) else box[2] * box[3],
        "iscrowd": int(image.crowd[i]),
    }
    if kind == "masks":
        shape = image.shapes[i] if image.shapes else None
        nothing = masks.Runs(image.height, image.width, np.array([image.height * image.width]))
        entry["segmentation"] = masks.encoded(shape or nothing, image.height, image.width)
    if kind == "keypoints":
        points = given.get("keypoints") or [0] * image.keypoints[i].size
        entry |= {"keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
    return entry


def _empty(data: AnnotatedSet) -> dict[str, Any]:
    images = [{"id": image.number} for image in data.images]
    categories = [{"id": number} for number in data.category_ids]
    return {"images": images, "categories": categories, "annotations": []}


def written(data: AnnotatedSet, found: Sequence[Detections], kind: str) -> Iterator[dict[str, Any]]:
    """Detections as COCO's server takes them, as JSON: entries of a list.

    Args:
      data: N annotated images of COCO's form.
      found: N detections, in the same order.
      kind: a key of KINDS.

    Raises:
      InputError: a class that the set does not have, or no masks or keypoints where asked for.
    """
    for image, one in zip(data.images, found):
        lacks = {"masks": not one.masks, "keypoints": one.keypoints is None}.get(kind, False)
        if len(one) and lacks:
            raise InputError(f"the detections on {image.name} have no {kind}")
        for i in range(len(one)):
            number = int(one.classes[i])
            if not 0 <= number < len(data.category_ids):
                raise InputError(f"a detection of class {number}; {data.name} has 0 to "
                                 f"{len(data.category_ids) - 1}")  # fmt: skip
            entry = {"image_id": image.number, "category_id": data.category_ids[number]}
            yield entry | {"score": float(one.scores[i])} | _place(one, i, kind)


def _place(one: Detections, i: int, kind: str) -> dict[str, Any]:
    if kind == "masks":
        counts = one.masks[i]["counts"]  # the library gives bytes
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return {"segmentation": {"size": list(one.masks[i]["size"]), "counts": text}}
    if kind == "keypoints":  # COCO's are numbers of pixels
        points = one.keypoints[i].astype(np.float64) - [0.5, 0.5, 0]
        return {"keypoints": points.ravel().tolist()}
    x1, y1, x2, y2 = one.boxes[i].astype(np.float64).tolist()
    return {"bbox": [x1, y1, x2 - x1, y2 - y1]}
