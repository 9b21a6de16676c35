"""COCO's annotations: one JSON file for all images; `coco:ANNOTATIONS.json:IMAGES`.

n objects of an image, K keypoints of an object
"""

import collections
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moco_jax import places
from moco_jax.data import listing
from moco_jax.data.source import existing
from moco_jax.data.summary import LeftOut
from moco_jax.detection import masks
from moco_jax.detection.annotated import Annotated, AnnotatedSet, AnnotatedSplits, understood_of
from moco_jax.detection.corners import Account, mend
from moco_jax.errors import InputError

_MAX_PIXELS = 100_000_000
_MOST = 1 << 63  # of numbers
NO_IMAGE, NOT_LISTED = "images without a file", "annotations of no image"
NOT_ANNOTATED = "files without an entry"
NO_CLASS, NO_BOX = "annotations of no category", "annotations without a box"
NO_SHAPE = "outlines that are none, their boxes kept"


def open_coco(where: str) -> AnnotatedSplits:
    """Opens `coco:ANNOTATIONS.json:IMAGES`.

    A file of COCO is one split: another one, to test on, is opened by itself.

    Raises:
      InputError: the file is not in COCO's form, or names what lies outside of the images' folder.
      MissingError: a path does not exist, or no image of the file does.
    """
    file, colon, folder = where.rpartition(":")
    if not colon or "," in where:
        raise InputError(f"coco:{where}: expected coco:ANNOTATIONS.json:IMAGES, one of each")
    file, folder = (str(existing(str(places.local("coco", path)))) for path in (file, folder))
    if os.path.isdir(file) or not os.path.isdir(folder):
        raise InputError(f"coco:{where}: expected a file and a folder")
    content = load(file)
    account = Account(LeftOut(), LeftOut())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    images = _Reader(file, folder, content, account).images()
    if not images:
        raise InputError(f"coco:{where}: no image is left; {account.left_out}")
    return AnnotatedSplits(_set(where, file, images, categories, account), None)


def load(file: str) -> dict[str, Any]:
    """The content of COCO's file, its lists and numbers checked.

    Raises:
      InputError: it is no JSON, or not in COCO's form.
    """
    try:
        content = json.loads(listing.read_again(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    fields = {"images": {"id", "file_name", "height", "width"}, "categories": {"id", "name"}}
    for part, wanted in (fields | {"annotations": {"id", "image_id", "category_id"}}).items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{file} has no list {part!r}, which COCO's annotations have")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or not wanted <= entry.keys():
                raise InputError(f"{file}: {part}[{i}] lacks one of {', '.join(sorted(wanted))}")
        _check_numbers(file, part, [entry["id"] for entry in entries])
    if not content["categories"]:
        raise InputError(f"{file} has no categories")
    return content


def _check_numbers(file: str, part: str, numbers: Sequence[Any]) -> None:
    if odd := [n for n in numbers if type(n) is not int or not 0 <= n < _MOST]:
        raise InputError(
            f"{file}: a number of {part} is {str(odd[0])[:20]!r}; expected an integer from 0 on"
        )
    if len(set(numbers)) < len(numbers):
        number, _ = collections.Counter(numbers).most_common(1)[0]
        raise InputError(f"{file}: two {part} have the number {number}")


class _Reader:
    """Makes images of what a file of COCO holds."""

    def __init__(self, file: str, folder: str, content: Mapping[str, Any], account: Account):
        self._file, self._folder, self._account, self._content = file, folder, account, content
        numbers = sorted(category["id"] for category in content["categories"])
        self._class_of = {number: i for i, number in enumerate(numbers)}
        self._keypoints = len(keypoint_names(file, content["categories"]))
        self._has_shapes = any(entry.get("segmentation") for entry in content["annotations"])

    def images(self) -> list[Annotated]:
        """All images that are there, in the order of the file."""
        by_image = collections.defaultdict(list)
        for entry in self._content["annotations"]:
            by_image[_key(entry["image_id"])].append(entry)
        there = set(listing.walk(self._folder, "").images)
        images = []
        for entry in self._content["images"]:
            name = self._name(entry)
            objects = by_image.pop(entry["id"], [])
            if name in there:
                there.remove(name)
                images.append(self._image(entry, name, objects))
            else:
                self._account.left_out.note(NO_IMAGE, name)
        for number, entries in by_image.items():
            self._account.left_out.note(NOT_LISTED, f"image {number}", len(entries))
        if there:
            self._account.left_out.note(NOT_ANNOTATED, min(there), len(there))
        return images

    def _name(self, entry: Mapping[str, Any]) -> str:
        name = entry["file_name"]
        inside = isinstance(name, str) and not os.path.isabs(name)
        if not inside or os.path.normpath(name).startswith(".."):
            raise InputError(f"{self._file}: {name!r} is no file below the folder of images")
        sides = entry["height"], entry["width"]
        whole = all(type(side) is int and side > 0 for side in sides)
        if not whole or sides[0] * sides[1] > _MAX_PIXELS:
            raise InputError(f"{self._file}: {name} is of {sides[1]!r} x {sides[0]!r} pixels")
        return os.path.normpath(name)

    def _image(
        self, entry: Mapping[str, Any], name: str, given: Sequence[Mapping[str, Any]]
    ) -> Annotated:
        height, width = entry["height"], entry["width"]
        objects = [one for one in given if self._has_class(one, name) and self._has_box(one, name)]
        boxes = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes, kept = mend(boxes, height, width, 0, self._account, name)
        objects = [objects[i] for i in kept.tolist()]
        shapes = tuple(self._shape(one, height, width, name) for one in objects)
        return Annotated(
            path=os.path.join(self._folder, name),
            name=name,
            number=entry["id"],
            height=height,
            width=width,
            boxes=boxes,
            classes=np.array([self._class_of[one["category_id"]] for one in objects], np.int32),
            difficult=np.zeros(len(objects), bool),
            crowd=np.array([one.get("iscrowd", 0) == 1 for one in objects], bool),
            ids=np.array([one["id"] for one in objects], np.int64),
            shapes=shapes if self._has_shapes else (),
            keypoints=self._points(objects, name),
        )

    def _has_class(self, one: Mapping[str, Any], name: str) -> bool:
        known = _key(one["category_id"]) in self._class_of
        if not known:
            self._account.left_out.note(NO_CLASS, name)
        return known

    def _has_box(self, one: Mapping[str, Any], name: str) -> bool:
        box = one.get("bbox")
        good = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
        if not good:
            self._account.left_out.note(NO_BOX, name)
        return good

    def _shape(
        self, one: Mapping[str, Any], height: int, width: int, name: str
    ) -> masks.Shape | None:
        try:
            return masks.read_shape(one.get("segmentation") or [], height, width)
        except InputError as error:
            self._account.mended.note(f"{NO_SHAPE}: {error}", name)
            return None

    def _points(self, objects: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
        """Keypoints, float32 (n, K, 3); COCO has numbers of pixels, whose centres are meant."""
        out = np.zeros((len(objects), self._keypoints * 3), np.float32)
        for row, one in zip(out, objects):
            points = one.get("keypoints") or [0] * len(row)
            if not isinstance(points, list) or len(points) != len(row):
                raise InputError(f"{self._file}: {name} has keypoints of another number than "
                                 f"{self._keypoints}, which its category names")  # fmt: skip
            if not all(map(is_number, points)):
                raise InputError(f"{self._file}: {name} has keypoints that are no numbers")
            row[:] = points
        out = out.reshape(len(objects), self._keypoints, 3)
        out[..., :2] = np.where(out[..., 2:] > 0, out[..., :2] + 0.5, 0)
        return out


def _key(number: Any) -> Any:
    """A number of the file; of what is none (a list, say) its text, which no image has."""
    return number if isinstance(number, int | str) else str(number)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, and no infinity or NaN."""
    return type(value) in (int, float) and abs(value) < 1e9


def keypoint_names(file: str, categories: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of K keypoints; () where no category has any.

    Args:
      file: whose they are, for errors.
      categories: of the file.

    Raises:
      InputError: the categories have different ones.
    """
    given = [category.get("keypoints") or [] for category in categories]
    if not all(isinstance(names, list) for names in given):
        raise InputError(f"{file}: keypoints of a category are no list of names")
    found = {tuple(map(str, names)) for names in given} - {()}
    if len(found) > 1:
        raise InputError(f"{file}: its categories have different keypoints; expected the same ones")
    return found.pop() if found else ()


def _set(
    where: str,
    file: str,
    images: Sequence[Annotated],
    categories: Sequence[Mapping[str, Any]],
    account: Account,
) -> AnnotatedSet:
    names = tuple(str(category["name"]) for category in categories)
    understood = understood_of(f"coco:{where}", images, names, "categories of boxes", account)
    return AnnotatedSet(
        name=f"coco:{where}",
        images=tuple(images),
        class_names=names,
        category_ids=tuple(category["id"] for category in categories),
        keypoint_names=keypoint_names(file, categories),
        content=functools.partial(load, file),
        understood=understood,
    )
