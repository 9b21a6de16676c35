"""Sources from the Hugging Face library `datasets`, an optional extra: hf."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_jax import places
from moco_jax.data import layout
from moco_jax.data.columns import LABEL_NAMES, choose_image, choose_label
from moco_jax.data.copies import local_copy
from moco_jax.data.labels import class_numbers
from moco_jax.data.listing import read_file
from moco_jax.data.source import EncodedSource, Opening, Splits
from moco_jax.data.summary import Understood, kinds_of
from moco_jax.errors import BadImage, InputError
from moco_jax.extras import extra

_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
_NAMED = 10_000  # images whose names tell the kinds of all


def open_hf(where: str, opening: Opening = Opening()) -> Splits:
    """Opens a data set of the hub, downloaded if need be, or one on disk.

    Its splits are told by their names, as folders are: `layout.NAMES`.

    Args:
      where: `NAME` or `NAME:CONFIG` as on the hub; or the path of a folder that `save_to_disk`
        wrote, or that `datasets.load_dataset` knows to read (Parquet files, images); or such a
        folder's address in a bucket, of which a copy is made.
      opening: its columns, and where the copy is kept.

    Raises:
      InputError: the library is missing; it cannot load the data set; no training split; no
        images; it is not clear which column is meant.
    """
    splits = _load(where, opening.cache_dir)
    chosen = layout.pick(splits)
    if layout.TRAIN not in chosen:
        raise InputError(f"hf:{where} has no split 'train', only {', '.join(splits)}")
    name, test = chosen[layout.TRAIN], chosen.get(layout.VALIDATION) or chosen.get(layout.TEST)
    train = _source(where, name, splits[name], opening, ())
    unused = [split for split in splits if split not in (name, test)]
    if unused:
        notes = f"not the splits {', '.join(map(repr, unused))}"
        train = dataclasses.replace(train, understood=train.understood.noting(notes))
    if not test:
        return Splits(train, None)
    return Splits(train, _source(where, test, splits[test], opening, train.class_names))


def _library() -> Any:
    with extra("hf", "data.source='hf:...'"):
        import datasets
    return datasets


def _load(where: str, cache_dir: str) -> dict[str, Any]:
    """The data set's splits by name; a data set without splits is one for training."""
    datasets, path = _library(), pathlib.Path(where).expanduser()
    if places.scheme(where):
        path = local_copy(f"hf:{where}", where, cache_dir)
    name, _, subset = where.partition(":")
    try:
        if any((path / file).exists() for file in _SAVED):
            found = datasets.load_from_disk(str(path))
        elif path.exists():
            found = datasets.load_dataset(str(path))
        else:
            found = datasets.load_dataset(name, subset or None)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors derive from these
        raise InputError(f"hf:{where} cannot be loaded: {error}") from error
    return found if isinstance(found, dict) else {"train": found}


def _source(
    where: str, split: str, records: Any, opening: Opening, class_names: tuple[str, ...]
) -> EncodedSource:
    """One split, its images left encoded; `class_names` are those of training, if known."""
    datasets, what = _library(), f"hf:{where} {split}"
    features = records.features
    images = [key for key, f in features.items() if isinstance(f, datasets.Image)]
    image = choose_image(what, list(features), images, opening.image_column)
    label = choose_label(what, list(features), _label_columns(features), opening.label_column)
    records = records.select_columns([image, label] if label else [image])
    records = records.cast_column(image, datasets.Image(decode=False))
    file_of = functools.partial(_file, records.with_format("arrow"), image)
    kinds = kinds_of(map(file_of, range(0, len(records), 1 + len(records) // _NAMED)))
    understood = Understood(f"split {split!r}", len(records), kinds)
    numbers = None
    if label:
        names = class_names or tuple(getattr(features[label], "names", None) or ())
        numbers, class_names = _numbers(f"{what}: column {label!r}", records, label, names)
        understood = understood.labelled(f"column {label!r}", numbers, class_names)
        numbers = numbers if (numbers >= 0).any() else None
    return EncodedSource(
        name=what,
        size=len(records),
        read=functools.partial(_read, records, image, numbers),
        item_name=functools.partial(_name, what, file_of),
        labelled=numbers is not None,
        class_names=class_names if numbers is not None else (),
        read_labels=None if numbers is None else functools.partial(np.copy, numbers),
        understood=understood,
    )


def _label_columns(features: Any) -> list[str]:
    """Columns that may hold labels: of ClassLabel, or of numbers or text with a usual name."""
    datasets = _library()
    sure = [key for key, f in features.items() if isinstance(f, datasets.ClassLabel)]
    usual = [key for key in features if key.lower() in LABEL_NAMES]
    values = [key for key in usual if isinstance(features[key], datasets.Value)]
    return sure or [key for key in values if "float" not in features[key].dtype]


def _numbers(
    what: str, records: Any, label: str, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, int32 (N,), and the classes' names: their numbers where they have no others."""
    column = np.array(records[label][:], object)
    numbers, names = class_numbers(what, column, names)
    return numbers, names or tuple(map(str, range(int(numbers.max()) + 1)))


def _file(records: Any, image: str, i: int) -> str:
    """The name of the file that an image comes from; "" where that is not known."""
    path = records[i].column(image).combine_chunks().field("path")[0].as_py()
    return os.path.basename(path or "")


def _name(what: str, file_of: Callable[[int], str], i: int) -> str:
    """A place in the split, and the file."""
    return f"{what}[{i}] {file_of(i)}".rstrip()


def _read(records: Any, image: str, numbers: np.ndarray | None, i: int) -> tuple[bytes, int]:
    record = records[i][image]
    if record is None:
        raise BadImage("the record has no image")
    content = record["bytes"]
    if content is None:  # the data set only names a file
        content = read_file(os.path.expanduser(record["path"]))
    return content, -1 if numbers is None else int(numbers[i])
