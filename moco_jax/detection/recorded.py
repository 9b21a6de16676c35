"""Annotated images of TensorFlow Datasets, `tfds:NAME`: voc, coco and what has their features.

n objects of an image, H height, W width of it

TFDS keeps boxes alone, as shares of the image's sides in float32. Rounded to thousandths of a pixel
they are again what VOC's and COCO's own files have.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets

from moco_jax.data import decoding, layout, tfds
from moco_jax.data.patience import for_each
from moco_jax.data.summary import LeftOut
from moco_jax.detection import voc_layout
from moco_jax.detection.annotated import Annotated, AnnotatedSet, AnnotatedSplits, understood_of
from moco_jax.detection.corners import Account, mend
from moco_jax.detection.image_files import MAX_PIXELS, read_pixels
from moco_jax.detection.voc_layout import Folder
from moco_jax.errors import BadImage, InputError
from moco_jax.files import is_trouble, retrying

_READERS = 16  # records at a time
_LOOKED_AT = 16  # records that tell whether a split has objects
_DIGITS = 3  # of a pixel: float32's shares are exact to that on 8,000 pixels
_OF_COCO = {"id", "area", "is_crowd"}
UNREADABLE = "images that cannot be read"


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded(Annotated):
    """An image that lies in a record.

    Attributes:
      read: gives its bytes.
    """

    read: Callable[[], bytes]

    def pixels(self, max_pixels: int) -> np.ndarray:
        """As `Annotated.pixels`."""
        read = lambda: retrying(f"reading {self.name}", self.read, is_trouble)  # noqa: E731
        return read_pixels(read, self.name, (self.height, self.width), max_pixels)


class _Data(NamedTuple):
    """A data set: its name and TFDS's builder, and the features of its objects."""

    name: str
    builder: Any
    objects: Any

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.objects["label"].names)

    @property
    def counts_from(self) -> int:
        """The number of the first pixel; VOC's boxes are divided as they stand in its files."""
        return int("is_difficult" in self.objects)

    @property
    def of_coco(self) -> bool:
        return self.objects.keys() >= _OF_COCO and "image/id" in self.builder.info.features


class _Read(NamedTuple):
    """What is in a record; the size is None where the image cannot be read."""

    name: str
    number: int
    size: tuple[int, int] | None
    objects: dict[str, np.ndarray]
    read: Callable[[], bytes]


def open_recorded(where: str) -> AnnotatedSplits:
    """Opens `tfds:NAME`, or `tfds:NAME,NAME` of VOC's form; the splits are as of `voc:PATH`.

    All records are read once, their images not decoded.

    Raises:
      InputError: no such data set, or without objects; see also `data.tfds.open_tfds`.
      StorageError: records cannot be read, again and again.
    """
    names = [name.strip() for name in where.split(",")]
    if odd := [name for name in names if not name or name.startswith("tfds:")]:
        raise InputError(f"tfds:{where}: {odd[0]!r} is no name; expected tfds:NAME or "
                         "tfds:NAME,NAME")  # fmt: skip
    sets = [_data(name) for name in names]
    _check_joined(where, sets)
    folders = [_splits(data) for data in sets]
    trains, tests, said = voc_layout.split(folders)
    train, test = (_part(where, sets, some) for some in (trains, tests))
    for part, wanted in ((train, True), (test, any(tests))):
        if wanted and not part.images:
            left = LeftOut(part.understood.left_out)
            raise InputError(f"tfds:{where}: no annotated image is left; {left}")
    train = dataclasses.replace(train, understood=train.understood.noting(f"tfds: {said}"))
    return AnnotatedSplits(train, test if any(tests) else None)


def _data(name: str) -> _Data:
    builder, kinds = tfds.prepared(name), tensorflow_datasets.features
    given = dict(builder.info.features.items())
    objects = getattr(given.get("objects"), "feature", None)
    there = isinstance(given.get("image"), kinds.Image) and isinstance(objects, kinds.FeaturesDict)
    objects = dict(objects.items()) if there else {}
    box, label = objects.get("bbox"), objects.get("label")
    if not isinstance(box, kinds.BBoxFeature) or not isinstance(label, kinds.ClassLabel):
        raise InputError(
            f"tfds:{name} has no feature 'image' and 'objects' with 'bbox' and 'label', only "
            f"{', '.join(given)}; expected a data set such as voc/2007 or coco/2017"
        )
    form = getattr(box.bbox_format, "value", box.bbox_format)
    if form not in (None, "REL_YXYX"):
        raise InputError(f"tfds:{name} has boxes of the form {form}; expected REL_YXYX")
    return _Data(name, builder, objects)


def _check_joined(where: str, sets: Sequence[_Data]) -> None:
    """Refuses sets that are not one: of other classes, or where numbers may come twice."""
    if other := [data for data in sets if data.class_names != sets[0].class_names]:
        raise InputError(f"tfds:{where}: {other[0].name} has other classes than {sets[0].name}")
    if len(sets) > 1 and not all(data.counts_from for data in sets):
        raise InputError(f"tfds:{where}: expected one data set, or several of VOC's form")


def _splits(data: _Data) -> Folder:
    """The splits that have objects, as lists of a folder; the tests of VOC12 and COCO have none."""
    chosen = tfds.splits_of(data.name, data.builder)
    has = {role: _has_objects(data, split) for role, split in chosen.items()}
    lists = {role: (split,) for role, split in chosen.items() if role == layout.TRAIN or has[role]}
    lists = {{layout.VALIDATION: voc_layout.VALIDATION}.get(k, k): v for k, v in lists.items()}
    if voc_layout.VALIDATION in lists:
        lists[voc_layout.BOTH] = lists[voc_layout.TRAIN] + lists[voc_layout.VALIDATION]
    return Folder(data.name, {}, {}, lists, LeftOut())


def _has_objects(data: _Data, split: str) -> bool:
    """Whether some of a split's images have objects."""
    records = tfds.encoded(data.builder, split)
    few = np.linspace(0, len(records) - 1, min(_LOOKED_AT, len(records)), dtype=int)
    return any(len(records[i]["objects"]["label"]) for i in few.tolist())


def _part(where: str, sets: Sequence[_Data], splits: Sequence[Sequence[str]]) -> AnnotatedSet:
    account, images, areas = Account(LeftOut(), LeftOut()), [], {}
    for data, some in zip(sets, splits):
        for split in some:
            for found in _read_split(data, split):
                if found.size is None:
                    account.left_out.note(UNREADABLE, found.name)
                    continue
                images.append(_annotated(data, found, len(images), account))
                if data.of_coco:
                    areas |= zip(*(np.asarray(found.objects[k]).tolist() for k in ("id", "area")))
    names, place = sets[0].class_names, f"tfds:{where}"
    part = AnnotatedSet(place, tuple(images), names)
    understood = understood_of(place, images, names, "boxes of records", account)
    part = dataclasses.replace(part, understood=understood)
    if not sets[0].of_coco:
        return part
    content = functools.partial(_content, part, areas)
    return dataclasses.replace(part, category_ids=_numbers(names), content=content)


def _read_split(data: _Data, split: str) -> list[_Read]:
    records = tfds.encoded(data.builder, split)
    read = functools.partial(_read, f"tfds:{data.name} {split}", records)
    return for_each(read, range(len(records)), _READERS)


def _read(what: str, records: Sequence[dict[str, Any]], i: int) -> _Read:
    record = retrying(f"reading {what}[{i}]", lambda: records[i], is_trouble)
    name = record.get("image/filename", f"{what}[{i}]")
    return _Read(
        name=name.decode("utf-8", "replace") if isinstance(name, bytes) else name,
        number=int(record.get("image/id", -1)),
        size=_size(record["image"]),
        objects=record["objects"],
        read=functools.partial(_bytes, records, i),
    )


def _bytes(records: Sequence[dict[str, Any]], i: int) -> bytes:
    return records[i]["image"]


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return decoding.read_header(data, MAX_PIXELS)[:2]
    except BadImage:
        return None


def _annotated(data: _Data, found: _Read, place: int, account: Account) -> Recorded:
    (height, width), objects = found.size, found.objects
    shares = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
    boxes = np.round(shares * [height, width, height, width], _DIGITS)[:, [1, 0, 3, 2]]
    boxes, kept = mend(boxes, height, width, data.counts_from, account, found.name)
    flags, count = np.zeros(len(shares), bool), np.arange(len(shares))
    return Recorded(
        path=found.name,
        name=found.name,
        number=found.number if data.of_coco else place,
        height=height,
        width=width,
        boxes=boxes,
        classes=np.asarray(objects["label"]).astype(np.int32)[kept],
        difficult=np.asarray(objects.get("is_difficult", flags)).astype(bool)[kept],
        crowd=np.asarray(objects.get("is_crowd", flags)).astype(bool)[kept],
        ids=np.asarray(objects["id"] if data.of_coco else count).astype(np.int64)[kept],
        shapes=(),
        keypoints=np.zeros((len(kept), 0, 3), np.float32),
        read=found.read,
    )


def _numbers(names: Sequence[str]) -> tuple[int, ...]:
    """In place of COCO's numbers of its classes, which TFDS does not keep."""
    return tuple(range(1, len(names) + 1))


def _content(data: AnnotatedSet, areas: dict[int, float]) -> dict[str, Any]:
    """The annotations as COCO's file would have them."""
    annotations = []
    for image in data.images:
        corners = image.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        for number, kind, box in zip(image.ids.tolist(), image.classes.tolist(), boxes):
            annotations.append({
                "id": number, "image_id": image.number, "category_id": kind + 1, "bbox": box,
                "area": areas[number],
            })  # fmt: skip
    categories = [
        {"id": number, "name": name}
        for number, name in zip(_numbers(data.class_names), data.class_names)
    ]
    return {"annotations": annotations, "categories": categories}
